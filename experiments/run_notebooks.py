"""Runs the notebooks of experiments/notebooks/ from results/ alone, and saves what they show in them.

\b
    python experiments/run_notebooks.py
    python experiments/run_notebooks.py balance failover
    python experiments/run_notebooks.py --check

Exit status 1 if a cell fails; that notebook is not saved.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import click

NOTEBOOKS: Final = Path(__file__).resolve().parent / "notebooks"
CELL_S: Final = 60
"""How long a cell may take."""
AT_ONCE: Final = 2
"""Notebooks that run side by side, each in a process of its own."""


async def run(file: Path) -> Any:
    """The notebook with what its cells show. Raises CellExecutionError."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(file, as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_S, record_timing=False, resources={"metadata": {"path": str(file.parent)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
    )  # fmt: skip
    await client.async_execute()
    # Only what belongs to the notebook is kept, not what belongs to the Python that ran it.
    notebook.metadata.pop("language_info", None)
    return notebook


async def run_all(files: list[Path], *, save: bool) -> list[str]:
    """What went wrong, a text for each notebook of which a cell failed."""
    import nbformat
    from nbclient.exceptions import CellExecutionError

    room = asyncio.Semaphore(AT_ONCE)

    async def one(file: Path) -> str:
        async with room:
            try:
                notebook = await run(file)
            except (CellExecutionError, RuntimeError, TimeoutError) as error:  # of a cell; of its process
                return f"{file.name}: {error}"
        if save:
            nbformat.write(notebook, file)
        click.echo(f"{file.stem}: {'saved' if save else 'runs'}")
        return ""

    return [text for text in await asyncio.gather(*map(one, files)) if text]


@click.command(help=__doc__)
@click.argument("names", nargs=-1)
@click.option("--check", is_flag=True, help="Only see whether they run; save nothing.")
def main(names: tuple[str, ...], check: bool) -> None:
    there = {file.stem: file for file in sorted(NOTEBOOKS.glob("*.ipynb"))}
    unknown = sorted(set(names) - set(there))
    if unknown:
        raise click.UsageError(f"no notebook is called {unknown[0]!r}; there are: {', '.join(there)}")
    try:
        import ipykernel  # noqa: F401 - whether it is there
        import matplotlib  # noqa: F401
        import nbclient  # noqa: F401
    except ImportError as error:
        sys.exit(f"notebooks need {error.name}: pip install '.[experiments]', or `make figures`, which does that")
    with tempfile.TemporaryDirectory(prefix="notebooks-") as directory:
        # What IPython and Jupyter write for themselves goes there, and with it.
        os.environ |= {"IPYTHONDIR": directory, "JUPYTER_RUNTIME_DIR": directory}
        wrong = asyncio.run(run_all([there[name] for name in names or there], save=not check))
    for text in wrong:
        click.echo(text, err=True)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
