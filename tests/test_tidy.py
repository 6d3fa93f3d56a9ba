"""Taste, executable: sizes, words, and documents that name everything there is."""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pvback.errors import PvbackError
from tests.support.fuzz_seeds import SEEDS

ROOT = Path(__file__).resolve().parent.parent
THIS = "tests/test_tidy.py"
TEXT = {".py", ".pyi", ".rs", ".md", ".toml", ".txt", ".json", ".yaml", ".yml", ".cfg", ".lock", ".sh", ""}

# The sites of the languages themselves may be named; written apart, so that nobody takes this for a use.
_LANGUAGE_SITES = tuple(".".join(parts) for parts in (("golang", "org"), ("pypi", "org"), ("crates", "io")))

MODULE_LINES_MAX = 400
TEST_LINES_MAX = 600
FUNCTION_LINES_MAX = 50
PARAMETERS_MAX = 6
POSITIONAL_MAX = 2
RUST_LINES_MAX = 500
BINDING_LINES_MAX = 250

# Word, where it is looked for, and what to write instead. docs/glossary.md explains the replacements.
BANNED = [
    (r"\b(TODO|FIXME|XXX|HACK)\b", (".py", ".pyi", ".rs", ".md", ".toml"), "do it, or open an issue"),
    (r"(?i)\bdata ?store\b", (".py", ".pyi", ".rs", ".md"), "repository"),
    (r"(?i)\bfsck\b", (".py", ".pyi", ".rs"), "check"),
    (r"(?i)\bpurg(e|es|ed|ing)\b", (".py", ".pyi", ".rs", ".md"), "prune"),
    (r"(?i)\bdedupe(s|d)?\b", (".py", ".pyi", ".rs", ".md"), "dedup, deduplicate"),
    (r"(?i)\brecovery points?\b(?! objective)", (".py", ".pyi", ".rs", ".md"), "snapshot"),
    (r"(?i)\b(white|black)list", (".py", ".pyi", ".rs", ".md"), "allow, deny"),
    (r"(?i)\bsanity\b", (".py", ".pyi", ".rs", ".md"), "what is checked"),
    (r"(?<![/\w.])(src|dst|dest)\b(?![/\w])", (".py", ".pyi"), "source, target"),
]
BANNED_MODULES = {"utils", "util", "helpers", "helper", "common", "misc"}


def tracked() -> list[str]:
    """Paths of all files that are, or would be, in the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("not a git checkout")
    return [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]


def texts(*suffixes: str) -> Iterator[tuple[str, str]]:
    for path in tracked():
        if Path(path).suffix in (suffixes or TEXT):
            yield path, (ROOT / path).read_text(encoding="utf-8")


def python_modules() -> Iterator[tuple[str, ast.Module, str]]:
    for path, text in texts(".py"):
        if path.startswith("pvback/"):
            yield path, ast.parse(text), text


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def rust_lines(text: str) -> int:
    """Lines without the test module at the end of a file."""
    return len(re.split(r"^#\[cfg\((?:all\()?test", text, maxsplit=1, flags=re.MULTILINE)[0].splitlines())


def test_python_modules_are_small() -> None:
    limits = {"pvback": MODULE_LINES_MAX, "benchmarks": MODULE_LINES_MAX, "tests": TEST_LINES_MAX}
    found = []
    for path, text in texts(".py"):
        count = len(text.splitlines())
        if count > limits.get(path.split("/")[0], MODULE_LINES_MAX):
            found.append(f"{path}: {count} lines")
    assert not found, found


def test_python_functions_are_short() -> None:
    found = []
    for path, tree, _ in python_modules():
        for function in functions(tree):
            body = function.body[1:] if ast.get_docstring(function) is not None else function.body
            if not body:
                continue
            docstring_lines = body[0].lineno - function.body[0].lineno
            count = (function.end_lineno or 0) - function.lineno + 1 - docstring_lines
            if count > FUNCTION_LINES_MAX:
                found.append(f"{path}:{function.lineno} {function.name}: {count} lines")
    assert not found, found


def test_functions_take_few_parameters() -> None:
    found = []
    for path, tree, _ in python_modules():
        for function in functions(tree):
            arguments = function.args
            positional = [arg.arg for arg in [*arguments.posonlyargs, *arguments.args]]
            positional = [name for name in positional if name not in ("self", "cls")]
            total = len(positional) + len(arguments.kwonlyargs)
            # Click hands options over by keyword, as many as a command has.
            if total > PARAMETERS_MAX and not path.startswith("pvback/cli/"):
                found.append(f"{path}:{function.lineno} {function.name}: {total} parameters")
            # The reference reader keeps the order of the format document's formulas.
            is_formula = path.startswith("pvback/reference/")
            # The binding calls the operations of a file system by position.
            is_callback = path.startswith("pvback/fuse/")
            is_free = is_formula or is_callback or function.name.startswith("_")
            if len(positional) > POSITIONAL_MAX and not is_free:
                found.append(f"{path}:{function.lineno} {function.name}: {len(positional)} by position")
    assert not found, found


def test_rust_files_are_small() -> None:
    found = []
    for path, text in texts(".rs"):
        if not re.match(r"native/\w+/src/", path) or "/tests" in path:
            continue
        limit = BINDING_LINES_MAX if path.startswith("native/py/") else RUST_LINES_MAX
        if (count := rust_lines(text)) > limit:
            found.append(f"{path}: {count} lines without tests")
    assert not found, found


def test_words() -> None:
    found = []
    for path, text in texts(".py", ".pyi", ".rs", ".md", ".toml"):
        if path in (THIS, "docs/glossary.md"):
            continue
        for pattern, suffixes, instead in BANNED:
            if Path(path).suffix in suffixes:
                for match in re.finditer(pattern, text):
                    line = text.count("\n", 0, match.start()) + 1
                    found.append(f"{path}:{line} {match[0]!r}: write {instead}")
    assert not found, "\n".join(found)


def test_no_module_without_a_subject() -> None:
    names = [path for path in tracked() if {Path(path).stem, *Path(path).parts[:-1]} & BANNED_MODULES]
    assert not names, "name a module for what it holds"


def test_only_datapath_imports_the_native_module() -> None:
    found = []
    for path, tree, _ in python_modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module or ""]
            else:
                continue
            if any(name.startswith("pvback._native") for name in names) and path != "pvback/datapath.py":
                found.append(f"{path}:{node.lineno}")
    assert not found, found


def test_every_module_is_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| `((?:pvback|native)/[^`]+)`", text, flags=re.MULTILINE))
    there = set()
    for path in tracked():
        if path.startswith("pvback/") and path.endswith(".py"):
            there.add(path)
        elif match := re.match(r"native/\w+/src/(?:\w+\.rs|\w+/)", path):
            # A Rust module in a folder is one line, with the slash: `native/core/src/chunk/`.
            there.add(match[0])
    assert not there - named, "no line in docs/architecture.md: " + " ".join(sorted(there - named))
    assert not named - there, "docs/architecture.md names what is not there: " + " ".join(
        sorted(named - there)
    )


def test_every_exit_code_is_in_operations() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    section = text.split("## Exit codes")[1].split("\n## ")[0]
    named = {int(code) for code in re.findall(r"^\| (\d+) \|", section, flags=re.MULTILINE)}
    kinds = [PvbackError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    assert named == {0} | {kind.exit_code for kind in kinds}


def machine_words() -> set[str]:
    """What would give this machine away: its folders, and the package mirrors that it is set up with."""
    words = {str(ROOT), f"{Path.home()}/"} - {"/", "//"}
    # The folder at the top of this path says something about the machine unless many machines have it.
    if (
        f" {ROOT.parts[1]} "
        not in " app build builds cache code data home mnt opt repo root src srv tmp usr var "
    ):
        words.add(f"/{ROOT.parts[1]}/")
    for name, value in os.environ.items():
        if re.search(r"INDEX|REGISTRY|MIRROR|PROXY|FIND_LINKS", name, re.IGNORECASE):
            for part in re.split(r"[\s,|]+", value):
                host = urlsplit(part).hostname
                if host and "." in host and not host.endswith(_LANGUAGE_SITES):
                    words.add(host)
                elif part.startswith("/") and part.count("/") > 1:
                    words.add(part)
    return words


def test_no_trace_of_a_machine() -> None:
    places = re.compile(
        r"/home/(?!user\b|runner\b)[a-z]\w*/|/Users/\w+/|(?<![\w~])/ro{2}t/"
        r"|\b(?:10|192\.168|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2,3}\b(?!/)"
        r"|https?://[\w.-]+\.(?:internal|corp|lan|intranet)\b"
        r"|--(?:extra-)?index-url|--find-links"
    )
    words = machine_words()
    found = []
    for path, text in texts():
        if path == THIS:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if (match := places.search(line)) or any(word in line for word in words):
                found.append(f"{path}:{number} {match[0] if match else line.strip()[:80]}")
    assert not found, "\n".join(found)


def test_packages_come_from_public_registries() -> None:
    for path in ("native/Cargo.lock", "native/fuzz/Cargo.lock"):
        lock = tomllib.loads((ROOT / path).read_text(encoding="utf-8"))
        sources = {package["source"] for package in lock["package"] if "source" in package}
        assert sources <= {"registry+https://github.com/rust-lang/crates.io-index"}, path
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wrong = [pin for pin in pins if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", pin)]
    assert not wrong, wrong


def test_vectors_are_read_on_both_sides() -> None:
    names = {Path(path).name for path in tracked() if path.startswith("tests/vectors/")}
    assert names
    rust = "".join(text for path, text in texts(".rs") if re.search(r"/tests(/|\.rs$)", path))
    python = "".join(text for path, text in texts(".py") if re.match(r"tests/unit/test_\w+\.py$", path))
    for side, text in (("cargo test", rust), ("pytest", python)):
        read = set(re.findall(r"""[/"]([\w-]+\.json)\"""", text))
        assert not names - read, f"{side} does not read " + " ".join(sorted(names - read))


def test_every_fuzz_target_has_seeds() -> None:
    manifest = tomllib.loads((ROOT / "native/fuzz/Cargo.toml").read_text(encoding="utf-8"))
    targets = {target["name"] for target in manifest["bin"]}
    files = {Path(path).stem for path in tracked() if path.startswith("native/fuzz/fuzz_targets/")}
    assert targets == files == set(SEEDS)
    for target, seeds in SEEDS.items():
        assert list(seeds()), target
