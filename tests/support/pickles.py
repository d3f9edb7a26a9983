"""Pickles that would do harm if anybody opened them, and what may hold one; made without `pickle`."""

import io
import struct
import zipfile


def text(value):
    return b"X" + struct.pack("<L", len(value.encode())) + value.encode()


def call(module, name, *values):
    """Protocol 2: module.name(*values)."""
    return b"\x80\x02" + f"c{module}\n{name}\n".encode() + b"(" + b"".join(values) + b"tR."


def pickles(mark):
    """Pickles that would write the file ``mark``, start something, or exhaust the reader."""
    command, code = text(f"echo x >> {mark}"), text(f"open({mark!r}, 'w').close()")
    words = b"](" + text("touch") + text(mark) + b"e"
    system, four = b"cos\nsystem\n", b"\x80\x04"
    stack = b"\x8c\x02os\x8c\x06system\x93"
    calls = {
        "os.system": [command], "posix.system": [command], "os.popen": [command], "subprocess.Popen": [words],
        "subprocess.call": [words], "subprocess.check_output": [words], "subprocess.getoutput": [command],
        "os.execv": [text("/bin/true"), b"](" + text("true") + b"e"], "os.putenv": [text("a"), text("b")],
        "os.remove": [text(mark)], "shutil.rmtree": [text(mark)], "builtins.eval": [code], "builtins.exec": [code],
        "__builtin__.eval": [code], "builtins.open": [text(mark), text("w")],
        "builtins.__import__": [text("antigravity")],
        "builtins.compile": [code, text("x"), text("exec")], "importlib.import_module": [text("antigravity")],
        "pty.spawn": [words], "runpy.run_path": [text(mark)], "webbrowser.open": [text("http://127.0.0.1:9/")],
        "timeit.timeit": [code], "cProfile.run": [code], "pdb.run": [code], "ctypes.CDLL": [text(mark)],
        "torch.load": [text(mark)], "torch.hub.load": [text("a/b"), text("c")], "numpy.load": [text(mark)],
        "functools.partial": [system, command], "operator.methodcaller": [text("system"), command],
        "socket.create_connection": [text("127.0.0.1") + b"K\x09\x86"], "logging.FileHandler": [text(mark)],
    }  # fmt: skip
    rest = {
        "protocol 0": b"cos\nsystem\n(S'echo x >> " + mark.encode() + b"'\ntR.",
        "STACK_GLOBAL": four + stack + command + b"\x85R.",
        "INST": b"(S'echo x >> " + mark.encode() + b"'\nios\nsystem\n.",
        "OBJ": b"(" + system + command + b"o.",
        "NEWOBJ": b"\x80\x02" + system + command + b"\x85\x81.",
        "NEWOBJ_EX": four + stack + command + b"\x85}\x92.",
        "BUILD": b"\x80\x02ccollections\nOrderedDict\n)R}" + text("__setstate__") + system + b"sb" + command + b"b.",
        "EXT1": b"\x80\x02\x82\x01.",
        "persistent id": b"\x80\x02" + command + b"Q.",
        "inside a state dict": b"\x80\x02}" + text("weight") + call("os", "system", command)[2:-1] + b"s.",
        "memo doubled": b"\x80\x02]q\0" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(30)) + b".",
        "huge long": b"\x80\x02\x8b" + struct.pack("<l", 2**31 - 1) + b"x.",
        "huge frame": four + b"\x95" + struct.pack("<Q", 2**60) + b"N.",
        "deep": b"(" * 100_000 + b"N" + b"t" * 100_000 + b".",
        "cut": call("os", "system", command)[:-9],
        "nothing": b"",
    }
    made = {name: call(*name.rsplit(".", 1), *values) for name, values in calls.items()}
    return {**made, **rest}


def as_checkpoint(data):
    """What torch.save writes: a zip around the pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return buffer.getvalue()


def as_array(data):
    """A .npy of Python objects."""
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data
