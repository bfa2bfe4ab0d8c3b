"""A client made with asyncssh. See doc.go for its input and output."""

import asyncio
import hashlib
import logging
import os
import sys

import asyncssh


class Exchanges(logging.Handler):
    """Counts the key exchanges that asyncssh has logged."""

    count = 0

    def emit(self, record):
        self.count += "Completed key exchange" in record.getMessage()


exchanges = Exchanges()
asyncssh.set_log_level("DEBUG")
logging.getLogger("asyncssh").addHandler(exchanges)
logging.getLogger("asyncssh").propagate = False


def connect(host, port, key, known, tunnel=(), **options):
    return asyncssh.connect(host, int(port), username="bastion", client_keys=[key], known_hosts=known, config=None,
                            agent_path=None, tunnel=tunnel, **options)


async def status(connection):
    result = await connection.run("status")
    return result.stdout + result.stderr


async def pipe(reader, writer, path):
    async def send():
        with open(path, "rb") as file:
            while block := file.read(1 << 18):
                writer.write(block)
                await writer.drain()
        writer.write_eof()

    sender = asyncio.create_task(send())
    count, received = 0, hashlib.sha256()
    while block := await reader.read(1 << 16):
        count += len(block)
        received.update(block)
    await sender
    writer.close()
    return f"{count} {received.hexdigest()}"


async def run(op, host, port, key, known, *args):
    options = {"rekey_bytes": os.path.getsize(args[2]) // 2} if op == "rekey" else {}
    before = exchanges.count
    async with connect(host, port, key, known, **options) as connection:
        if op == "status":
            return await status(connection)
        if op == "jump":
            async with connect(*args, key, known, tunnel=connection) as inner:
                return await status(inner)
        target = (args[0], int(args[1]))
        if op == "forward":
            listener = await connection.forward_local_port("127.0.0.1", 0, *target)
            target = ("127.0.0.1", listener.get_port())
            return await pipe(*await asyncio.open_connection(*target), args[2])
        result = await pipe(*await connection.open_connection(*target), args[2])
        return result + (" rekeyed" if exchanges.count > before + 1 else "")


for line in sys.stdin:
    try:
        result = "ok " + asyncio.run(run(*line.split()))
    except Exception as error:
        result = f"error {type(error).__name__}: {error}"
    print(" | ".join(result.split("\n")), flush=True)
