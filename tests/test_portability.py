"""The package runs on Linux, macOS and Windows: it calls nothing that only one of them has. (Tests may.)"""

import ast
import re
import subprocess
import sys

import pytest

from helpers.runs import ROOT


FOLDERS = ("tinystories", "benchmarks", "metrics", "tools")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])
POSIX_MODULES = {"crypt", "curses", "fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios"}
NOT_ON_WINDOWS = {"terminal/keys.py": "termios"}  # the file asks for the system first
POSIX_NAMES = {
    *(
        "os." + name
        for name in ("fork", "forkpty", "getuid", "geteuid", "getgid", "getpgid", "killpg", "mkfifo", "nice")
    ),
    *("os." + name for name in ("setsid", "setpgid", "statvfs", "uname", "wait", "waitpid", "getloadavg", "sync")),
    *(
        "os." + name
        for name in ("sched_getaffinity", "posix_fadvise", "pread", "pwrite", "sysconf", "chown", "O_DIRECT")
    ),
    *("signal." + name for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "alarm", "pause")),
    *("signal." + name for name in ("setitimer", "sigwait", "pthread_kill", "pthread_sigmask")),
    "os.system",  # shells differ
    "os.popen",
    "asyncio.add_signal_handler",
}


def names_of(tree: ast.AST):
    """(dotted name, line) of every import and of every attribute of a plain name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}", node.lineno


def posix_only(source: str) -> list[str]:
    found = []
    for name, line in names_of(ast.parse(source)):
        if name.split(".")[0] in POSIX_MODULES or name in POSIX_NAMES:
            found.append(f"line {line}: {name}")
    return found


def without_encoding(source: str) -> list[str]:
    """Text files opened with the default encoding of the system, which is not UTF-8 on Windows."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        mode = node.args[1:2] if isinstance(node.func, ast.Name) else node.args[:1]  # open(path, mode), path.open(mode)
        binary = any(isinstance(word, ast.Constant) and "b" in str(word.value) for word in mode)
        named = any(keyword.arg == "encoding" for keyword in node.keywords)
        if name in ("open", "read_text", "write_text") and not named and not (name == "open" and binary):
            found.append(f"line {node.lineno}: {name}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source_is_portable(path):
    """Found by reading the source, so that it also holds for code that no test on Linux reaches."""
    source, module = path.read_text(encoding="utf-8"), NOT_ON_WINDOWS.get(f"{path.parent.name}/{path.name}")
    assert module is None or source.index('sys.platform == "win32"') < source.index(f"import {module}")
    assert [found for found in posix_only(source) if module is None or f": {module}" not in found] == []
    assert without_encoding(source) == []
    assert "/tmp" not in source and "/dev/" not in source and "shell=True" not in source
    assert '"fork"' not in source, "processes are spawned on Windows and macOS"


def test_scan_finds_violations():
    assert (
        posix_only("import fcntl") and posix_only("import os\nos.fork()") and posix_only("from signal import SIGKILL")
    )
    assert without_encoding("open('blob.txt')") and without_encoding("path.read_text()")
    assert not without_encoding("open('a', 'rb')") and not without_encoding("path.read_text(encoding='utf-8')")


@pytest.mark.slow
def test_imports_without_posix_modules(tmp_path):
    """Every module can be imported where the modules of POSIX are missing, as on Windows. Libraries may have them."""
    modules = [path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for path in SOURCES]
    modules = [
        name.removesuffix(".__init__")
        for name in modules
        if not name.startswith(("benchmarks", "tools", "tinystories.boxed"))
    ]
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import accelerate, datasets, torch, transformers.trainer  # they can do without; not what is tested
sys.modules |= dict.fromkeys({POSIX_MODULES!r})  # from here on, importing one of them is an ImportError
for module in {modules!r}:
    __import__(module)
    print(module)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.split() == modules


def test_file_names_are_valid_on_windows():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        files = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file()]
        files = [name for name in files if not re.match(r"\.|runs/|.*\.egg-info/", name)]
    else:
        files = listed.stdout.split("\n")[:-1]
    assert len(files) > 30
    assert not [name for name in files if re.search(r'[<>:"|?*\\]|[ .]$', name) or len(name) > 150]
    assert len({name.lower() for name in files}) == len(files)
