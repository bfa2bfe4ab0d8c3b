"""A client made with libssh2, through ssh2-python. See doc.go for its input and output."""

import contextlib
import hashlib
import socket
import sys
import threading

from ssh2.error_codes import LIBSSH2_ERROR_EAGAIN
from ssh2.knownhost import LIBSSH2_KNOWNHOST_KEYENC_RAW, LIBSSH2_KNOWNHOST_TYPE_PLAIN
from ssh2.session import Session


class Failed(Exception):
    """A call of libssh2 failed. ssh2-python's own exceptions have no message."""


@contextlib.contextmanager
def explained(session):
    """Adds libssh2's message to an exception."""
    try:
        yield
    except Exception as error:
        message = session.last_error()
        if isinstance(message, bytes):
            message = message.decode()
        raise Failed(f"{type(error).__name__}: {message}") from error


def check_host(session, host, port, known):
    hosts = session.knownhost_init()
    hosts.readfile(known)
    key, _ = session.hostkey()
    # It raises an exception if the key is not in the file.
    hosts.checkp(host.encode(), int(port), key, LIBSSH2_KNOWNHOST_TYPE_PLAIN | LIBSSH2_KNOWNHOST_KEYENC_RAW)


def connect(host, port, key, known, sock=None):
    session = Session()
    with explained(session):
        session.handshake(sock or socket.create_connection((host, int(port))))
        check_host(session, host, port, known)
        session.userauth_publickey_fromfile("bastion", key, "", key + ".pub")
    return session


def status(session):
    channel = session.open_session()
    channel.execute("status")
    output = b""
    while True:
        size, block = channel.read()
        if size <= 0:
            return output.decode()
        output += block


def pipe(session, host, port, path):
    channel = session.direct_tcpip(host, int(port))
    with open(path, "rb") as file:
        while block := file.read(1 << 18):
            channel.write(block)
    channel.send_eof()
    count, received = 0, hashlib.sha256()
    while True:
        size, block = channel.read(1 << 16)
        if size < 0 and size != LIBSSH2_ERROR_EAGAIN:
            raise OSError(f"libssh2 error {size}")
        if size == 0:
            return f"{count} {received.hexdigest()}"
        count += len(block)
        received.update(block)


def pump(session, channel, sock):
    """Copies between a channel and a socket. A session must not be used by two threads."""
    session.set_blocking(False)
    sock.setblocking(False)
    pending = b""
    while not channel.eof():
        if not pending:
            try:
                pending = sock.recv(1 << 16)
                if not pending:
                    break
            except BlockingIOError:
                pass
        if pending:
            _, written = channel.write(pending)
            pending = pending[max(written, 0):]
        size, block = channel.read(1 << 16)
        if size > 0:
            sock.setblocking(True)
            sock.sendall(block)
            sock.setblocking(False)
    sock.close()
    session.set_blocking(True)


def jump(session, host, port, key, known):
    near, far = socket.socketpair()
    channel = session.direct_tcpip(host, int(port))
    pumping = threading.Thread(target=pump, args=(session, channel, far))
    pumping.start()
    try:
        inner = connect(host, port, key, known, near)
        result = status(inner)
        inner.disconnect()
        return result
    finally:
        near.close()
        pumping.join()


def run(op, host, port, key, known, *args):
    session = connect(host, port, key, known)
    try:
        with explained(session):
            if op == "status":
                return status(session)
            if op == "jump":
                return jump(session, *args, key, known)
            return pipe(session, *args)
    finally:
        session.disconnect()


for line in sys.stdin:
    try:
        result = "ok " + run(*line.split())
    except Exception as error:
        result = f"error {type(error).__name__}: {error}"
    print(" | ".join(result.split("\n")), flush=True)
