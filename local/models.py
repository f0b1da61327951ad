"""Makes the arguments of a local cluster's vLLM engine, and derives the names of its models.

Pure; reads only the options that decide the names, and leaves all others to vLLM.
"""

import argparse
import json
import shlex
from pathlib import PurePath

DEFAULT_MODEL = "openai/gpt-oss-20b"
"""The model that the engine serves by default."""

_CONFIG_SUFFIXES = (".yaml", ".yml")


def join_engine_args(model: str | None, engine_args: str) -> str:
    """Returns one command line for vLLM; a YAML file given in place of flags becomes `--config`."""
    if model is None:
        return engine_args
    flags = engine_args.strip()
    if _is_file(flags):
        flags = f"--config {shlex.quote(flags)}"
    return f"--model {shlex.quote(model)} {flags}".rstrip()


def name_models(engine_args: str) -> list[str] | None:
    """Returns the names of the model, which come first, and of its adapters; None if a file defines them.

    `openai/gpt-oss-20b` is also called `gpt-oss-20b`, and a folder has its own name. Raises ValueError.
    """
    options = _read(shlex.split(engine_args))
    if options.model is None and (_is_file(engine_args.strip()) or options.config is not None):
        return None
    model = options.model or DEFAULT_MODEL
    short = PurePath(model).name
    names = [short] if PurePath(model).is_absolute() or model.startswith(".") else [short, model]
    return list(dict.fromkeys([*names, *map(_name_adapter, options.lora_modules)]))


def _read(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--model")
    parser.add_argument("--config")
    parser.add_argument("--lora-modules", "--lora_modules", nargs="+", default=[])
    try:
        return parser.parse_known_args(words)[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def _name_adapter(module: str) -> str:
    """Returns the name of an adapter given as `name=path`, or as JSON with both, as vLLM takes it."""
    if not module.startswith("{"):
        return module.partition("=")[0]
    match json.loads(module):
        case {"name": str(name)}:
            return name
        case _:
            raise ValueError(f"an adapter without a name: {module}")


def _is_file(text: str) -> bool:
    return PurePath(text).suffix in _CONFIG_SUFFIXES and " " not in text
