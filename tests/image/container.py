"""Runs the relay's image as if it were the relay itself: what CLOUD_RELAY_BIN names when the Rust tests test the image.

    container.py STORE PLATFORM IMAGE [ARGUMENT …]
    container.py --flags        prints the restrictions, one podman flag a line

The container has the restrictions of docker-compose.yml, this process's environment, and the directories that it
names. SIGTERM is passed on to it. SIGKILL cannot be: a keeper beside this process sees its end and kills the
container. STORE is podman's root directory. PLATFORM is the image's: where it is not the machine's, podman warns on
stderr if it is not named, which is where the tests read the relay's log.
"""

import fcntl
import hashlib
import os
import resource
import select
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RELAY_UID = 10001
# Where podman finds runc and conmon; the tests clear the environment.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def podman(store: Path) -> list[str]:
    """The command, with a store of its own: nothing of this machine's podman is touched."""
    return [
        "/usr/bin/podman",
        f"--root={store}/storage",
        f"--runroot={store}/run",
        "--storage-driver=overlay",
        "--runtime=runc",
        "--cgroup-manager=cgroupfs",
        "--events-backend=none",
    ]


def restrictions() -> list[str]:
    """What docker-compose.yml says of the relay, in podman's words. Nothing of it is passed over in silence."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    flags = []
    for key, value in compose["services"]["cloud-relay"].items():
        match key:
            case "read_only":
                # without podman's own writable /run and /var/tmp, which Docker does not have
                flags += [f"--read-only={str(value).lower()}", "--read-only-tmpfs=false"]
            case "tmpfs" | "cap_drop" | "cap_add":
                flags += [f"--{key.replace('_', '-')}={each}" for each in value]
            case "security_opt":
                flags += [f"--security-opt={each.removesuffix(':true')}" for each in value]
            case "network_mode":
                flags += [f"--network={value}"]
            case "user":
                flags += [f"--user={value}"]
            case "stop_grace_period":
                flags += [f"--stop-timeout={value.removesuffix('s')}"]
            case "build" | "restart" | "labels" | "volumes":
                pass  # balena's builder and Supervisor; the tests bring directories of their own
            case _:
                sys.exit(f"docker-compose.yml has {key}, which tests/image/container.py does not know")
    return flags


def limits() -> list[str]:
    """Limits no higher than this process's own: podman would ask for more, which not every machine grants."""
    flags = []
    for name, kind in [("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)]:
        hard = resource.getrlimit(kind)[1]
        limit = 1024 if hard == resource.RLIM_INFINITY else min(1024, hard)
        flags.append(f"--ulimit={name}={limit}:{limit}")
    return flags


def mounts(environment: dict[str, str], arguments: list[str]) -> tuple[list[str], str]:
    """The data directory, given to the relay's user, and the root certificate; and which directory it is."""
    data = environment.get("DATA_DIR", "")
    if "--data-dir" in arguments:
        data = arguments[arguments.index("--data-dir") + 1]
    flags = []
    if data and Path(data).is_dir():
        if os.stat(data).st_uid == 0:
            os.chown(data, RELAY_UID, RELAY_UID)
        flags.append(f"--volume={data}:{data}")
    if root := environment.get("AWS_ROOT_CA_PATH"):
        flags.append(f"--volume={root}:{root}:ro")
    return flags, data


def keep(entry: Path, kill: list[str], entry_fd: int) -> None:
    """In a process of its own: waits for the end of the one that called, then for the container's."""
    watched = os.pidfd_open(os.getpid())
    if os.fork() != 0:
        os.close(watched)
        return
    os.setsid()
    with open(os.devnull, "r+b") as nowhere:
        for stream in range(3):
            os.dup2(nowhere.fileno(), stream)
    select.select([watched], [], [])
    subprocess.run(kill, env={"PATH": PATH, "HOME": "/root"}, check=False)
    entry.unlink()
    os.close(entry_fd)
    os._exit(0)


def register(store: Path, data: str) -> tuple[Path, int]:
    """Waits for containers that used `data` and whose process is gone; then notes this process's."""
    entries = store / "kept"
    entries.mkdir(parents=True, exist_ok=True)
    prefix = hashlib.sha256(data.encode()).hexdigest()[:16]
    for entry in entries.glob(f"{prefix}-*"):
        pid = entry.name.rsplit("-", 1)[1]
        if not Path(f"/proc/{pid}").exists():
            try:
                with entry.open() as file:
                    fcntl.flock(file, fcntl.LOCK_EX)  # free once its keeper has ended
            except FileNotFoundError:
                pass
    entry = entries / f"{prefix}-{os.getpid()}"
    fd = os.open(entry, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return entry, fd


def main() -> None:
    if sys.argv[1:] == ["--flags"]:
        print(*restrictions(), *limits(), sep="\n")
        return
    store, platform, image, *arguments = sys.argv[1:]
    store = Path(store)
    environment = dict(os.environ)
    volumes, data = mounts(environment, arguments)
    entry, entry_fd = register(store, data)
    name = f"relay-{os.getpid()}"
    keep(entry, [*podman(store), "rm", "--force", "--time=0", "--ignore", name], entry_fd)
    # by name only: a value could be a secret, and a command line can be seen
    variables = [f"--env={variable}" for variable in environment if variable not in ("LC_CTYPE", "PWD", "SHLVL", "_")]
    command = [
        *podman(store),
        "run",
        "--rm",
        f"--name={name}",
        "--pull=never",
        f"--platform={platform}",
        "--log-driver=none",
        "--no-healthcheck",  # tests/image/check asks by itself
        *restrictions(),
        *limits(),
        *volumes,
        *variables,
        image,
        *arguments,
    ]
    os.execve(command[0], command, {"HOME": "/root", "PATH": PATH, **environment})


main()
