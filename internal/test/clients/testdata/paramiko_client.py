"""A client made with paramiko. See doc.go for its input and output."""

import hashlib
import os
import sys
import threading

import paramiko

WAIT = 300  # seconds; the defaults are shorter than a busy machine may need


class Transport(paramiko.Transport):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.handshake_timeout = WAIT


def connect(host, port, key, known, sock=None):
    client = paramiko.SSHClient()
    client.load_host_keys(known)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    client.connect(host, int(port), "bastion", key_filename=key, allow_agent=False, look_for_keys=False, sock=sock,
                   timeout=WAIT, banner_timeout=WAIT, auth_timeout=WAIT, transport_factory=Transport)
    return client


def status(client):
    _, stdout, stderr = client.exec_command("status")
    return (stdout.read() + stderr.read()).decode()


def channel_to(client, host, port):
    return client.get_transport().open_channel("direct-tcpip", (host, int(port)), ("127.0.0.1", 0))


def pipe(client, host, port, path, rekey):
    channel = channel_to(client, host, port)
    failures = []

    def send():
        try:
            half = os.path.getsize(path) // 2
            with open(path, "rb") as file:
                channel.sendall(file.read(half))
                if rekey:
                    client.get_transport().renegotiate_keys()  # returns when the new keys are in use
                while block := file.read(1 << 20):
                    channel.sendall(block)
            channel.shutdown_write()
        except BaseException as error:
            failures.append(error)
            channel.close()

    sender = threading.Thread(target=send)
    sender.start()
    count, received = 0, hashlib.sha256()
    while block := channel.recv(1 << 16):
        count += len(block)
        received.update(block)
    sender.join()
    if failures:
        raise failures[0]
    return f"{count} {received.hexdigest()}" + (" rekeyed" if rekey else "")


def run(op, host, port, key, known, *args):
    client = connect(host, port, key, known)
    try:
        if op == "status":
            return status(client)
        if op == "jump":
            inner = connect(*args, key, known, sock=channel_to(client, *args))
            try:
                return status(inner)
            finally:
                inner.close()
        return pipe(client, *args[:3], op == "rekey")
    finally:
        client.close()


for line in sys.stdin:
    try:
        result = "ok " + run(*line.split())
    except Exception as error:
        result = f"error {type(error).__name__}: {error}"
    print(" | ".join(result.split("\n")), flush=True)
