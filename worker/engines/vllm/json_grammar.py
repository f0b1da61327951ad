"""Compiles JSON schemas to grammars over the model's vocabulary, and makes their masks.

Owns compilation, its cache and its threads; `turn_grammar.py` owns what may surround a JSON text in a turn.
The only importer of xgrammar. Runs in vLLM's processes; decisions and timings are in
docs/adr/0012-constraints-of-our-own.md.
"""

import os
import re
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import torch
import xgrammar
from msgspec.json import decode, encode

from worker.engines.protocol import Body, Unfulfillable
from worker.engines.vllm.json_schema import make_enforceable
from worker.harmony.tokens import CONTROL_TOKENS, bytes_of

_ANY_OBJECT = '{"type": "object"}'
_WHITESPACE_MAX = 16
"""The number of whitespace characters between two elements: a newline and seven levels of two spaces."""
_GRAMMARS_MAX = 512
"""Grammars kept in memory, besides those being compiled; well above what one request can bring. A grammar
takes 1 to 10 MB."""
_COMPILED_MAX_BYTES = 256 * 2**20
"""The size of xgrammar's cache of parts of grammars."""
_SOURCE = re.compile(r"^\[[\d:]+\] \S+: ")
_THREADS = max(1, min(8, (os.cpu_count() or 2) // 2))

Compiled = Future[xgrammar.CompiledGrammar]


class JsonMatcher:
    """Tracks one JSON text, and the token that ends it."""

    def __init__(self, grammar: xgrammar.CompiledGrammar, end: int) -> None:
        self.matcher = xgrammar.GrammarMatcher(grammar, override_stop_tokens=[end])

    def accept(self, token: int) -> bool:
        return bool(self.matcher.accept_token(token))

    def take_back(self) -> None:
        self.matcher.rollback(1)

    def fill(self, masks: torch.Tensor, row: int) -> None:
        """Writes what may come next into a row of `masks` ([n, ids / 32] int32 bits)."""
        self.matcher.fill_next_token_bitmask(masks, row)


class JsonGrammars:
    """Compiles grammars for a vocabulary of `vocabulary_size` ids, each once, in threads of its own."""

    def __init__(self, vocabulary_size: int) -> None:
        vocabulary = [b"" if token in CONTROL_TOKENS else bytes_of(token) for token in range(vocabulary_size)]
        tokens = xgrammar.TokenizerInfo(vocabulary, vocab_size=vocabulary_size, stop_token_ids=[])
        self._compiler = xgrammar.GrammarCompiler(
            tokens, max_threads=_THREADS, cache_limit_bytes=_COMPILED_MAX_BYTES
        )
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="json-grammar")
        self._grammars: OrderedDict[Body, Compiled] = OrderedDict()
        self.begin(Body(True))

    def __len__(self) -> int:
        return len(self._grammars)

    def begin(self, body: Body) -> Compiled:
        """Returns the grammar as a future, compiling it if necessary; it may raise Unfulfillable."""
        if body in self._grammars:
            self._grammars.move_to_end(body)
            return self._grammars[body]
        self._make_room()
        compiled = self._grammars[body] = self._threads.submit(self._compile, body)
        return compiled

    def _make_room(self) -> None:
        """Drops the least recently used grammars, except unfinished ones, which would be started again."""
        excess = len(self._grammars) - _GRAMMARS_MAX + 1
        finished = [body for body, grammar in self._grammars.items() if grammar.done()] if excess > 0 else []
        for body in finished[:excess]:
            del self._grammars[body]

    def _compile(self, body: Body) -> xgrammar.CompiledGrammar:
        try:
            schema = make_enforceable(decode(body.schema or _ANY_OBJECT), is_strict=body.is_strict)
            return self._compile_schema(encode(schema).decode())
        except (RuntimeError, ValueError, OverflowError, Unfulfillable) as error:
            if body.is_strict:
                raise Unfulfillable(f"The JSON schema cannot be enforced: {_reason_in(error)}") from error
            return self._compile_schema(_ANY_OBJECT)

    def _compile_schema(self, schema: str) -> xgrammar.CompiledGrammar:
        return self._compiler.compile_json_schema(schema, max_whitespace_cnt=_WHITESPACE_MAX)


@lru_cache(maxsize=1)
def grammars_of(vocabulary_size: int) -> JsonGrammars:
    """Returns this process's grammars, shared by all its callers."""
    return JsonGrammars(vocabulary_size)


def _reason_in(error: Exception) -> str:
    """Returns the error's message, without the time and source position that xgrammar prefixes."""
    return _SOURCE.sub("", str(error)).strip()
