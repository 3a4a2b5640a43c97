"""`devpolicy playground`: policies, models and hosts to try in a browser.

Owns the options, and the end of the server. The site is made by `devpolicy._core.playground`.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from devpolicy._core.cli.context import CliContext, common, pass_context
from devpolicy._core.cli.group import Command
from devpolicy._core.cli.table import facts
from devpolicy._core.errors import DevPolicyError, Diagnostic, reason_of
from devpolicy._core.files import kind_of


@click.command(
    cls=Command, name="playground", short_help="Try policies in a browser, with the plan's picture as you type."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="0 takes any free port.")
@click.option(
    "--pyodide",
    metavar="FOLDER",
    type=click.Path(),
    help="The folder of Pyodide, the browser's Python, as npm installs it.",
)
@click.option("--download", "fetch", is_flag=True, help="Fetch Pyodide from npm, once: 6 MB.")
@click.option(
    "-o",
    "--output",
    metavar="FOLDER",
    type=click.Path(),
    help="Write the page to a new folder as static files, and serve nothing.",
)
@click.option("--open/--no-open", "opens", default=True, help="Open the browser.")
@common(formats=())
@pass_context
def command(ctx: CliContext, port: int, pyodide: str | None, fetch: bool, output: str | None, opens: bool) -> None:
    """Serve a page with an editor for policies, a choice of models and hosts, and the plan's picture.

    The page runs this devpolicy inside the browser and sends nothing anywhere. A plan has the same digest as with
    `devpolicy plan`. The page needs Pyodide, a Python for browsers, which --download fetches once.

    \b
    Examples:
      devpolicy playground --download
      devpolicy playground --pyodide node_modules/pyodide --port 0 --no-open
      devpolicy playground --output site/playground
    """
    from devpolicy._core.playground.download import download, kept
    from devpolicy._core.playground.site import PYODIDE, files

    if fetch and pyodide is None:
        with ctx.progress("fetching Pyodide") as progress:
            pyodide = str(download(progress))
    folder = Path(pyodide) if pyodide is not None else kept()
    if pyodide is None and kind_of(folder, DevPolicyError) != "folder":
        message = f"Pyodide {PYODIDE}, the browser's Python, is not here"
        hint = "add `--download`, which fetches it from npm once, or name its folder with `--pyodide`"
        raise DevPolicyError([Diagnostic("", message, help=hint)])
    with ctx.working("packing the site"):
        site = files(folder)
    if output is not None:
        _write(Path(output), site)
        words = ["python", "-m", "http.server", "--directory", output]
        step = f"`{shlex.join(words)}` serves it, as any web server can"
        ctx.out.print(facts([("written", f"{output}: {len(site)} files"), ("next", step)], width=ctx.out.width))
        return
    _serve(ctx, site, port, opens=opens)


def _serve(ctx: CliContext, site: dict[str, bytes], port: int, *, opens: bool) -> None:
    from devpolicy._core.playground.server import ADDRESS, server

    try:
        found = server(site, port)
    except OSError as broken:
        message = f"cannot listen on port {port}: {reason_of(broken)}"
        raise DevPolicyError([Diagnostic("", message, help="`--port 0` takes a free one")]) from None
    with found:
        address = f"http://{ADDRESS}:{found.server_address[1]}/"
        ctx.out.print(facts([("serving", address), ("next", "open it in a browser; Ctrl+C ends it")], width=80))
        if opens:
            import webbrowser

            webbrowser.open(address)
        found.serve_forever()


def _write(folder: Path, site: dict[str, bytes]) -> None:
    from devpolicy._core.cli.files import write_whole

    try:
        if folder.exists() and any(folder.iterdir()):
            hint = "name a new folder"
            raise DevPolicyError([Diagnostic("", f"`{folder}` is there already, and is not replaced", help=hint)])
        for name in site:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
    except OSError as broken:
        raise DevPolicyError(f"cannot make `{folder}`: {reason_of(broken)}") from None
    for name, content in site.items():
        write_whole(str(folder / name), content)
