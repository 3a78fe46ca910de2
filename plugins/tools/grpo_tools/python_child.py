"""The process of the tool ``python``: limits itself, then runs the code that comes on its standard input.

It is run as a file, and imports nothing of ours.
"""

import ast
import ctypes
import json
import linecache
import os
import resource
import signal
import sys
import traceback

CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWNET = 0x20000000, 0x10000000, 0x40000000
PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS = 1, 38


def main() -> int:
    limits = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    wanted = CLONE_NEWUSER | CLONE_NEWPID | (0 if limits["network"] else CLONE_NEWNET)
    if libc.unshare(wanted) == 0:
        child = os.fork()  # the first process in there; all others end with it
        if child:
            _, status = os.waitpid(child, 0)
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    elif not limits["network"]:
        os.kill(os.getpid(), signal.SIGSYS)  # says that this machine has none for unprivileged users
    for name, most in limits["limits"].items():
        resource.setrlimit(getattr(resource, name), (most, most))
    programs = os.fdopen(os.dup(0), encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    names: dict[str, object] = {"__name__": "__main__"}
    if not limits["session"]:
        return run(programs.read(), names, "<code>")
    for number, line in enumerate(programs, 1):  # of a session: each may use what the ones before defined
        end, code = json.loads(line)
        status = run(code, names, f"<code {number}>")
        # Whatever the program has made of sys.stdout: else it would never end.
        print(f"\n{end} {status}", file=sys.__stdout__, flush=True)
    return 0


def run(code: str, names: dict[str, object], file: str) -> int:
    """Run ``code`` as a program; the value of a last expression is printed, as an interpreter does."""
    linecache.cache[file] = (len(code), None, code.splitlines(keepends=True), file)  # for tracebacks
    try:
        tree = ast.parse(code, file)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            tree.body.pop()
        exec(compile(tree, file, "exec"), names)  # noqa: S102 - what it is for
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), file, "eval"), names)  # noqa: S307
            if value is not None:
                print(repr(value))  # noqa: T201
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException as problem:
        trace = problem.__traceback__
        ours = (__file__, ast.__file__)
        while trace is not None and trace.tb_frame.f_code.co_filename in ours:
            trace = trace.tb_next  # its own lines come first, and are no help
        traceback.print_exception(type(problem), problem, trace)
        return 1
    finally:
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
