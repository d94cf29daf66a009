"""The commands of the demo's images, kernels and registry."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ansible_collections.ringfence.zones.plugins.module_utils.command import run
from ansible_collections.ringfence.zones.plugins.module_utils.errors import RingfenceError
from ansible_collections.ringfence.zones.plugins.module_utils.image import registry
from ringfence_demo import images, kernels, server
from ringfence_demo.cache import TAG
from ringfence_demo.definitions import DEFINITIONS, KERNELS, Definition

DEFAULT_PORT = 5055


def main(arguments: Sequence[str]) -> int:
    """Run one command; a failure is one line and exit status 1."""
    options = _parser().parse_args(arguments)
    os.umask(0o022)  # mmdebstrap applies it to what it extracts
    try:
        if options.verb == "down":
            stopped = server.stop(_registry(options.cache, options.port))
            print("registry stopped" if stopped else f"no registry of the demo is running on port {options.port}")
        else:
            _up(options.cache, options.port, options.host or f"127.0.0.1:{options.port}", options.references, _definitions(options.also))
    except RingfenceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def cache_directory() -> Path:
    """Built images and the registry's data: ``$RINGFENCE_DEMO_CACHE``, or ``ringfence-demo`` in the user's cache folder."""
    if chosen := os.environ.get("RINGFENCE_DEMO_CACHE"):
        return Path(chosen).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", "/"), ".cache")
    return Path(base) / "ringfence-demo"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description="Images and kernels for the demo, in a registry on this machine's loopback.")
    parser.add_argument("--cache", type=Path, default=cache_directory(), help="where images and registry are kept (%(default)s)")
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="build the images, start the registry, push them and write their references")
    up.add_argument("--host", metavar="HOST:PORT", help="the registry's name as the zones' host sees it (127.0.0.1:PORT)")
    up.add_argument(
        "--references",
        type=Path,
        required=True,
        help="file to write: YAML with demo_images and demo_kernels, each of them name to reference by digest",
    )
    up.add_argument("--also", metavar="FILE", type=Path, help="Python file whose DEFINITIONS are served beside the demo's")
    down = verbs.add_parser("down", help="stop the registry that `up` started")
    for verb in (up, down):
        verb.add_argument("--port", type=int, default=DEFAULT_PORT, help="port of the registry on 127.0.0.1 (%(default)s)")
    return parser


def _registry(cache: Path, port: int) -> Path:
    """Where a registry keeps its state and data. Each port has its own, so that the demo's and a test's run side by side."""
    return cache / f"registry-{port}"


def _definitions(also: Path | None) -> tuple[Definition, ...]:
    return (*DEFINITIONS, *(runpy.run_path(os.fspath(also))["DEFINITIONS"] if also else ()))


def _up(cache: Path, port: int, host: str, references: Path, definitions: Sequence[Definition]) -> None:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:4.0f} s] demo images: {text}", file=sys.stderr, flush=True)

    say(f"building {', '.join(definition.name for definition in definitions)} from Debian's packages, unless they are in {cache}")
    with ThreadPoolExecutor() as pool:
        layouts = pool.map(lambda definition: images.build(definition, cache), definitions)
        built = {"demo_images": {definition.name: layout for definition, layout in zip(definitions, layouts, strict=True)}}
    say(f"packaging the kernels of {', '.join(KERNELS)}, unless they are in {cache}")
    built["demo_kernels"] = {f"kernels/{name}": kernels.build(name, suite, cache) for name, suite in KERNELS.items()}
    say(f"registry on 127.0.0.1:{port}" + ("" if server.start(_registry(cache, port), port) else " is running already"))
    lines = []
    for variable, repositories in built.items():
        lines.append(f"{variable}:")
        for repository, layout in repositories.items():
            digest = _push(layout, f"127.0.0.1:{port}/{repository}")
            lines.append(f"  {repository.rpartition('/')[2]}: {host}/{repository}@{digest}")
    references.parent.mkdir(parents=True, exist_ok=True)
    references.write_text("\n".join(lines) + "\n", encoding="utf-8")
    say(f"pushed; references are in {references}")


def _push(layout: Path, name: str) -> str:
    source = f"oci:{layout}:{TAG}"
    run(["skopeo", "copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", source, f"docker://{name}:{TAG}"])
    return registry.resolve(source).digest
