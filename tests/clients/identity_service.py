"""A real identity service for tests: Keystone with a database in one file, on a free port.

    identity_service.py FOLDER

Prints the address of its API v3 when it answers, and ends when its standard input does. The administrator is `admin`
of the project `admin`, with the password `secret`.
"""

import os
import socket
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

CONFIGURATION = """
[DEFAULT]
log_file = {folder}/keystone.log
[database]
connection = sqlite:///{folder}/keystone.db
[fernet_tokens]
key_repository = {folder}/fernet
[credential]
key_repository = {folder}/credential
[identity]
password_hash_rounds = 4
[cache]
enabled = false
"""


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


def prepare(folder, url):
    for name in ["fernet", "credential"]:
        (folder / name).mkdir(mode=0o700)
    configuration = folder / "keystone.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder))
    user = ["--keystone-user", str(os.getuid()), "--keystone-group", str(os.getgid())]
    bootstrap = ["bootstrap", "--bootstrap-password", "secret", "--bootstrap-region-id", "test"]
    for kind in ["admin", "public"]:
        bootstrap += [f"--bootstrap-{kind}-url", url]
    for words in [["db_sync"], ["fernet_setup", *user], ["credential_setup", *user], bootstrap]:
        program = Path(sys.executable).parent / "keystone-manage"
        done = subprocess.run(
            [program, "--config-file", configuration, *words], capture_output=True, text=True
        )
        if done.returncode:
            sys.exit(f"keystone-manage {words[0]}: {done.stdout}{done.stderr}")
    os.environ["OS_KEYSTONE_CONFIG_DIR"] = str(folder)
    os.environ["OS_KEYSTONE_CONFIG_FILES"] = str(configuration)


def main():
    folder = Path(sys.argv[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/v3"
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepare(folder, url)
    sys.argv = sys.argv[:1]
    from keystone.server.wsgi import initialize_public_application

    server = make_server("127.0.0.1", port, initialize_public_application(), Server, Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    urllib.request.urlopen(url, timeout=60).read()
    print(url, file=answers, flush=True)
    sys.stdin.read()


main()
