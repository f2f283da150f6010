"""Runs commands of the real OpenStack clients, one for each line of standard input, in one process.

A line in is a JSON list: the name of the program (`openstack` or `nova`) and its arguments. A line out is a JSON
object with `code`, `out` and `err`. Each command is parsed and run as the program itself does it; only the
interpreter and the modules, which take seconds to load, are shared.
"""

import contextlib
import io
import json
import os
import sys
import traceback


def load():
    from novaclient.shell import main as nova
    from openstackclient.shell import main as openstack

    def run_nova(arguments):
        with settings_as_variables():
            return nova(arguments)

    return {"openstack": openstack, "nova": run_nova}


@contextlib.contextmanager
def settings_as_variables():
    """The older client reads no settings file, and needs an identity service."""
    with open(os.environ["OS_CLIENT_CONFIG_FILE"]) as file:
        settings = json.load(file)["clouds"][os.environ["OS_CLOUD"]]
    names = {f"OS_{name.upper()}": value for name, value in settings["auth"].items()}
    names["OS_ENDPOINT_OVERRIDE"] = settings["compute_endpoint_override"]
    kept = dict(os.environ)
    os.environ.update(names)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(kept)


def run(program, arguments):
    out, err = io.StringIO(), io.StringIO()
    # Logs of one command must not go to the streams of the one before.
    import logging

    logging.getLogger().handlers.clear()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = program(arguments)
        except SystemExit as end:
            code = end.code
        except Exception:
            traceback.print_exc()
            code = 1
    if isinstance(code, str):
        err.write(code)
        code = 1
    return {"code": int(code or 0), "out": out.getvalue(), "err": err.getvalue()}


def main():
    # Answers go where nothing that a client prints can get between.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Nothing that a client asks for may take the next command for its answer.
    commands, sys.stdin = sys.stdin, open(os.devnull)
    programs = load()
    for line in commands:
        program, *arguments = json.loads(line)
        answers.write(json.dumps(run(programs[program], arguments)) + "\n")
        answers.flush()


main()
