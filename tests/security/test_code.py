# SPDX-License-Identifier: MIT
"""Nothing that a file says is executed: calls that could do it are in no module of ours."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    file for folder in ("kraken_bids", "workflows", "scripts", "containers")
    for file in (ROOT / folder).rglob("*.py")
)  # fmt: skip

#: Calls that run what they are given, by the name they go by once imports are resolved.
FORBIDDEN = frozenset({
    "eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec",
    "os.system", "os.popen", "os.execv", "os.execvp", "os.execl", "os.execlp", "os.spawnl",
    "subprocess.getoutput", "subprocess.getstatusoutput", "pty.spawn",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load", "cPickle.loads",
    "dill.load", "dill.loads", "cloudpickle.load", "cloudpickle.loads", "joblib.load",
    "marshal.load", "marshal.loads", "shelve.open", "jsonpickle.decode",
    "pandas.read_pickle", "nipype.utils.filemanip.loadpkl",
    "yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.FullLoader",
    "yaml.UnsafeLoader", "yaml.Loader",
    "torch.load", "torch.hub.load", "torch.jit.load",
    "tarfile.open", "shutil.unpack_archive", "tempfile.mktemp",
    "xml.etree.ElementTree.parse", "xml.etree.ElementTree.fromstring", "lxml.etree.parse",
})  # fmt: skip
#: Methods by which archives write where their members' names lead.
EXTRACTING = frozenset({"extractall", "extract"})
#: Keywords that make a call run code, or a shell.
KEYWORDS = {("shell", True), ("allow_pickle", True), ("weights_only", False),
            ("trust_remote_code", True)}  # fmt: skip
#: Loaders of NumPy that must say that they take no pickles: older releases did by default.
NUMPY_LOADERS = frozenset({"numpy.load", "numpy.lib.format.read_array"})

#: What is allowed nevertheless, by file and name, with the reason.
ALLOWED: dict[tuple[str, str], str] = {
    ("kraken_bids/model/pickles.py", "pickle.Unpickler"): "base of the reader that looks every "
    "name up in a table of its own, and runs none of the file's",
    ("kraken_bids/cluster_plugins.py", "nipype.utils.filemanip.loadpkl"): "what Nipype's own "
    "processes hand each other in the working folder",
}


def calls(tree):
    """Every name that is called, inherited from or given on, and the call where it is one."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            dotted = ast.unparse(node)
            first, dot, rest = dotted.partition(".")
            yield names.get(first, first) + dot + rest, node, called.get(id(node))


def problems(source, name):
    """What of a module could run what it reads."""
    for dotted, node, call in calls(ast.parse(source)):
        where = f"{name}:{node.lineno}: {dotted}"
        if dotted in FORBIDDEN and (name, dotted) not in ALLOWED:
            yield where
        if isinstance(node, ast.Attribute) and node.attr in EXTRACTING and call is not None:
            yield where
        if call is None:
            continue
        given = {(keyword.arg, getattr(keyword.value, "value", None)) for keyword in call.keywords}
        for keyword in given & KEYWORDS:
            yield f"{where} with {keyword}"
        if dotted in NUMPY_LOADERS and ("allow_pickle", False) not in given:
            yield f"{where} without allow_pickle=False"


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_nothing_that_is_read_can_be_executed(file):
    name = str(file.relative_to(ROOT))
    found = list(problems(file.read_text("utf-8"), name))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("name", "called"), ALLOWED)
def test_what_is_allowed_is_still_there(name, called):
    tree = ast.parse((ROOT / name).read_text("utf-8"))
    assert called in {dotted for dotted, _, _ in calls(tree)}


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "import os\nos.system('x')",
        "from os import system as quiet\nquiet('x')",
        "import subprocess as s\ns.run('x', shell=True)",
        "import pickle\nread = pickle.loads",
        "from pickle import Unpickler\nclass Mine(Unpickler): ...",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=True)",
        "import numpy as np\nnp.savez('x', allow_pickle=True)",
        "import torch\ntorch.load('x', weights_only=True)",
        "import yaml\nyaml.load('x', Loader=yaml.SafeLoader)",
        "def f(archive): archive.extractall('x')",
    ],
)
def test_what_would_execute_is_found(source):
    assert list(problems(source, "x.py"))


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('x')",
        "import numpy as np\nnp.load('x', allow_pickle=False)",
        "import yaml\nyaml.safe_load('x')",
        "import subprocess\nsubprocess.run(['x'], check=True)",
        "def f(model): model.eval()",
    ],
)
def test_what_is_harmless_passes(source):
    assert not list(problems(source, "x.py"))
