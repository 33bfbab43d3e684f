"""What a client is told by a node that is full, with every face."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from tests.process.clients.faces import Face
from tests.process.support import WAIT_S
from zkv import LocalCluster, OutOfMemory, PutResult

pytestmark = pytest.mark.process

VALUE = bytes(200_000)
LIMIT_BYTES = 8 * 2**20


def test_a_node_without_room(face: Face) -> None:
    with (
        LocalCluster(nodes=1, replicas=1, shards=16, memory_limit=LIMIT_BYTES) as cluster,
        face.open(cluster.manager, timeout_s=WAIT_S) as kv,
    ):
        keys = [f"key{number}" for number in range(100)]
        results = kv.mput(dict.fromkeys(keys, VALUE), return_exceptions=True)
        stored = [key for key, result in zip(keys, results, strict=True) if type(result) is PutResult]
        refused = [key for key in keys if key not in stored]
        errors: list[Any] = [result for result in results if type(result) is not PutResult]
        assert {type(error) for error in errors} == {OutOfMemory}
        assert len(errors) == len(refused) > 0
        assert len(stored) > 10
        assert len({(error.endpoint, error.outcome_unknown, error.limit_bytes) for error in errors}) == 1

        with pytest.raises(OutOfMemory, match="server1 has no room") as raised:
            kv.put(refused[0], VALUE)
        error = raised.value
        assert error.endpoint == cluster.status()["nodes"][0]["endpoint"]
        assert error.limit_bytes == LIMIT_BYTES
        assert error.used_bytes > 0
        assert not error.outcome_unknown
        back = pickle.loads(pickle.dumps(error))
        assert (str(back), vars(back)) == (str(error), vars(error))

        for refuse in (
            lambda: kv.put(refused[0], VALUE, if_absent=True), lambda: kv.put(refused[0], VALUE, ttl_s=60),
            lambda: kv.getset(refused[0], VALUE), lambda: kv.append(refused[0], VALUE),
            lambda: kv.cas(refused[0], VALUE, version=0),
        ):  # fmt: skip
            with pytest.raises(OutOfMemory):
                refuse()
        with pytest.raises(OutOfMemory) as raised:
            kv.mput({refused[0]: VALUE, refused[1]: VALUE})
        assert not raised.value.outcome_unknown
        p = kv.pipeline(return_exceptions=True)
        p.put(refused[0], VALUE)
        p.get(stored[0])
        p.delete(stored[0])
        p.delete(stored[1])
        first, value, gone, _ = p.execute()
        assert type(first) is OutOfMemory
        assert (value, gone.existed) == (VALUE, True)  # reads and deletes go on

        assert kv.put(refused[0], VALUE) is not None  # there is room again
        assert kv.get(refused[0]) == VALUE
        assert kv.mget(stored[2:]) == [VALUE] * (len(stored) - 2)
        assert kv.count("key") == len(stored) - 1
