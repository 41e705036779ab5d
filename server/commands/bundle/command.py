"""``darkroom bundle``: pack all of a server into one file, or install from one.

Knows the order of it: choose models, fetch wheels, write the archive. ``install`` is the code that lies in every bundle
as install.py.
"""

from __future__ import annotations

import tempfile
from argparse import Namespace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from server import __version__
from server.commands.bundle import install
from server.commands.byte_progress import bar
from server.commands.failure import CommandFailed

if TYPE_CHECKING:
    from server.settings import Settings

_DOCUMENTS = ("README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "SECURITY.md")
_ROOT = Path(__file__).resolve().parents[3]
_USAGE = """darkroom bundle [options] OUT [ID ...]
       darkroom bundle install [--into FOLDER] [--public-key KEY] BUNDLE"""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "bundle", help="pack a server into one file, for a machine without a network", usage=_USAGE
    )
    parser.set_defaults(run=run)
    parser.add_argument("out", metavar="OUT", help="the archive to write: .tar, .tar.gz; or the word install")
    parser.add_argument("ids", metavar="ID", nargs="*", help="models of models.yaml to bring along, sealed")
    parser.add_argument("--all", action="store_true", help="all models of models.yaml")
    parser.add_argument("--models", type=Path, help="models.yaml to read")
    parser.add_argument("--sign", metavar="KEYFILE", type=Path, help="sign the manifest with this key of minisign's")
    wheels = parser.add_argument_group("wheels")
    wheels.add_argument(
        "--platform", metavar="NAME", action="append", default=[], help="linux-x86_64, linux-aarch64 or a tag of pip's"
    )
    wheels.add_argument("--python-version", metavar="3.N", help="that machine's Python (default: this one's)")
    wheels.add_argument(
        "--wheel", metavar="FILE", type=Path, help="Darkroom's own wheel (default: built of the checkout)"
    )
    wheels.add_argument(
        "--extra", metavar="NAME", action="append", default=[], help="vision, quantise, mcp; repeatable"
    )
    for flag, text in (
        ("--index-url", "where packages come from: which torch comes is decided there"),
        ("--extra-index-url", "a further one"),
        ("--find-links", "a folder of wheels to take first"),
        ("--constraint", "a file of versions to keep to (default: the checkout's constraints.txt)"),
    ):
        wheels.add_argument(flag, metavar="WHERE", action="append", default=[], help=f"pip's: {text}")
    install.add_options(parser.add_argument_group("install"))


def run(arguments: Namespace) -> int:
    from server.settings import read_settings

    if arguments.out == "install":
        if len(arguments.ids) != 1:
            raise CommandFailed("name one bundle: darkroom bundle install BUNDLE")
        try:
            return install.install(Path(arguments.ids[0]), arguments.into, arguments.public_key)
        except install.Refused as refusal:
            raise CommandFailed(f"{arguments.ids[0]}: {refusal}") from None
    given = {} if arguments.models is None else {"models": arguments.models}
    pack(read_settings(**given), arguments)
    return 0


def pack(settings: Settings, arguments: Namespace) -> None:
    """Write a bundle. Raises CommandFailed, OSError."""
    from server.catalog.load import find_models_file, load_catalog
    from server.commands.bundle import archive, contents, wheels

    out = Path(arguments.out)
    if not out.name.endswith((".tar", ".tar.gz", ".tgz")):
        raise CommandFailed(f"{out}: the name must end with .tar or .tar.gz")
    sign = None if arguments.sign is None else archive.signer(arguments.sign)
    target = wheels.target(arguments.platform, arguments.python_version)
    found, models_file = contents.Contents(), None
    if arguments.all or arguments.ids:
        catalog = load_catalog(find_models_file(settings.models))
        found, models_file = contents.of_models(catalog, list(catalog.models) if arguments.all else arguments.ids)
    extras = f"[{','.join(arguments.extra)}]" if arguments.extra else ""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".bundle.", dir=out.parent) as temporary:
        folder = Path(temporary)
        fetched = folder / "wheels"
        fetched.mkdir()
        wheels.fetch(fetched, arguments.wheel, extras, target, _pip_options(arguments))
        files = found.files | {f"wheels/{path.name}": path for path in fetched.glob("*.whl")} | _documents()
        files["install.py"] = Path(install.__file__)
        if models_file is not None:
            files["models.yaml"] = folder / "models.yaml"
            files["models.yaml"].write_text(models_file, encoding="utf-8")
        facts = {
            "darkroom": _version(fetched),
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": target.python,
            "system": target.system,
            "machine": target.machine,
            "extras": extras,
        }
        with bar(out.name, sum(path.stat().st_size for path in files.values())) as report:
            archive.write(out, files, facts, found.known, sign=sign, report=report)
    print(f"{out}: {len(files)} files, {out.stat().st_size / 1e6:.0f} MB{', signed' if sign else ''}")


def _pip_options(arguments: Namespace) -> list[str]:
    flags = ("index_url", "extra_index_url", "find_links", "constraint")
    options = [part for flag in flags for value in getattr(arguments, flag) for part in (_flag(flag), value)]
    tested = _ROOT / "constraints.txt"
    if not arguments.constraint and tested.is_file() and (_ROOT / "pyproject.toml").is_file():
        options += ["--constraint", str(tested)]
    return options


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _documents() -> dict[str, Path]:
    """What a checkout has to read; an installed package has none."""
    if not (_ROOT / "docs").is_dir() or not (_ROOT / "pyproject.toml").is_file():
        return {}
    named = [_ROOT / name for name in _DOCUMENTS if (_ROOT / name).is_file()]
    docs = [path for path in (_ROOT / "docs").rglob("*") if path.is_file() and path.suffix in (".md", ".json", ".png")]
    return {f"docs/{path.relative_to(_ROOT / 'docs' if path in docs else _ROOT)}": path for path in (*named, *docs)}


def _version(wheels: Path) -> str:
    """The version of Darkroom that is packed, which need not be this one."""
    names = [path.name.split("-")[1] for path in wheels.glob("darkroom-*.whl")]
    return names[0] if names else __version__
