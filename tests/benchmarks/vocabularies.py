"""Our token ids against llama.cpp's, and the speed of both, for every vocabulary in a folder.

    python tests/benchmarks/vocabularies.py FOLDER

llama.cpp's sources bring such a folder (`models/ggml-vocab-*.gguf`); whole models do as well. The
text is the standard library's and the installed packages' source. Prints JSON.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from pathlib import Path

from head import head
from llama_tokeniser import LlamaTokeniser

from assistant.errors import ModelError
from assistant.memory.gguf.header import read_header
from assistant.models.vocabulary import Vocabulary

LIMIT_BYTES = 4_000_000


def texts() -> list[str]:
    left = LIMIT_BYTES
    found = []
    for root in (sysconfig.get_path("purelib"), sysconfig.get_path("stdlib")):
        for path in sorted(Path(root).rglob("*.py")):
            if left <= 0:
                break
            content = path.read_bytes()[:60_000]
            left -= len(content)
            found.append(content.decode("utf-8", "replace"))
        left += LIMIT_BYTES // 4
    return found


def compare(path: Path, sources: list[str]) -> dict[str, object]:
    header = read_header(path)
    began = time.perf_counter()
    try:
        vocabulary = Vocabulary(header)
    except ModelError as error:
        return {"file": path.name, "refused": error.message}
    built = time.perf_counter()
    ours = [vocabulary.encode(text) for text in sources]
    ended = time.perf_counter()
    with LlamaTokeniser(path) as tokeniser:
        start = time.perf_counter()
        theirs = [tokeniser.encode(text) for text in sources]
        stop = time.perf_counter()
    count = sum(map(len, theirs))
    return {
        "file": path.name,
        "pre": header.metadata.get("tokenizer.ggml.pre"),
        "tokens": count,
        "files": len(sources),
        "different_files": sum(one != other for one, other in zip(ours, theirs, strict=True)),
        "build_s": round(built - began, 3),
        "our_tokens_per_s": round(sum(map(len, ours)) / (ended - built)),
        "llama_cpp_tokens_per_s": round(count / (stop - start)),
    }


def main() -> None:
    heading = head("vocabularies")
    sources = texts()
    rows = [compare(path, sources) for path in sorted(Path(sys.argv[1]).glob("*.gguf"))]
    print(json.dumps({**heading, "vocabularies": rows}, indent=1))


if __name__ == "__main__":
    main()
