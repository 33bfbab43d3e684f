"""Amounts of memory: what is understood, what is refused, on command lines and in the environment alike."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from zkv.cli.options import Command, chosen, setting_options
from zkv.core.amounts import exact_size, parse_size
from zkv.core.settings import ClusterSettings, NodeConfig
from zkv.errors import SettingError


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("4096", 4096), ("1B", 1), ("512MiB", 512 * 2**20), ("2GB", 2 * 10**9), ("2 gb", 2 * 10**9),
        ("1.5GiB", 3 * 2**29), (".5KiB", 512), ("64kb", 64_000), (" 1TiB ", 2**40), (f"{2**62 + 1}", 2**62 + 1),
    ],
)  # fmt: skip
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "512M", "512m", "2Gi", "-1", "1e9", "1,5GiB", "½GiB", "२", "nan", "1 2"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SettingError, match="512MiB, 2GB or a plain number"):
        parse_size(text)


@given(st.integers(0, 2**64))
def test_sizes_are_read_back_as_they_were(size: int) -> None:
    assert parse_size(exact_size(size)) == size


@click.command(cls=Command)
@setting_options(ClusterSettings)
def cluster(**options: object) -> None:
    click.echo(ClusterSettings(**chosen(ClusterSettings, options)).memory_limit_bytes)


@click.command(cls=Command)
@setting_options(NodeConfig)
def node(**options: object) -> None:
    click.echo(repr(NodeConfig(**chosen(NodeConfig, options)).memory_limit_bytes))


def test_a_flag_and_a_variable_take_the_same_sizes() -> None:
    runner = CliRunner()
    assert runner.invoke(cluster, []).stdout == "0\n"
    assert runner.invoke(cluster, ["--memory-limit", "512MiB"]).stdout == f"{512 * 2**20}\n"
    assert runner.invoke(cluster, [], env={"ZKV_MEMORY_LIMIT": "2GB"}).stdout == "2000000000\n"
    assert runner.invoke(node, ["--name", "a"]).stdout == "None\n"
    assert runner.invoke(node, ["--name", "a", "--memory-limit", "4096"]).stdout == "4096\n"
    assert runner.invoke(node, ["--name", "a"], env={"ZKV_NODE_MEMORY_LIMIT": "1kB"}).stdout == "1000\n"
    # A variable of the cluster is not taken for one of a node.
    assert runner.invoke(node, ["--name", "a"], env={"ZKV_MEMORY_LIMIT": "2GB"}).stdout == "None\n"


def test_help_shows_sizes_as_they_may_be_written() -> None:
    text = " ".join(CliRunner().invoke(cluster, ["--help"]).stdout.split())
    assert "--memory-limit SIZE" in text
    assert "default: 64MiB" in text
    refused = CliRunner().invoke(cluster, ["--memory-limit", "512M"])
    assert refused.exit_code == 2
    assert "'512M' is not a size: write 512MiB" in refused.stderr
