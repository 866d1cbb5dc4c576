"""The machine itself: its interpreter and packages, disk, memory, clock, environment, and what lies open."""

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from exo.doctor.evidence import Clock, Engine, Evidence, Memory, Security, Software, Storage, Surroundings
from exo.doctor.finding import Finding, gb

_PYTHON = (3, 11)
_LITTLE_DISK = 2 * 10**9
_FEW_FILES = 1000
_SWAP = 64 * 2**20
_OPEN_FILES = 1024
# No release of exo is older, so a clock that is has never been set.
_OLDEST = 2024
_REINSTALL = "pip install --force-reinstall exo-rkllama"


def examine(evidence: Evidence) -> Iterator[Finding]:
    if evidence.software is not None:
        yield from _software(evidence.software)
    formats = {model.format for model in evidence.shelf.models} if evidence.shelf else set()
    yield from _engines(evidence.engines, formats)
    if evidence.storage is not None:
        yield from _storage(evidence.storage)
    if evidence.memory is not None:
        yield from _memory(evidence.memory)
    if evidence.clock is not None:
        yield from _clock(evidence.clock)
    if evidence.security is not None:
        yield from _security(evidence.security, evidence)
    if evidence.surroundings is not None:
        yield from _surroundings(evidence.surroundings, evidence)


# Software


def _software(software: Software) -> Iterator[Finding]:
    version = ".".join(map(str, software.python))
    wanted = ".".join(map(str, _PYTHON))
    where = f"in the virtual environment {software.prefix}" if software.virtual else "the system's"
    if software.python[:2] < _PYTHON:
        yield Finding("broken", "Python", f"{version} is too old", f"exo needs {wanted} or later.")
    elif software.bits != 64:
        says = f"{version} is of {software.bits} bits, for which there are no engines"
        yield Finding("broken", "Python", says, "Use a 64-bit system.")
    else:
        yield Finding("ok", "Python", f"{version}, 64 bit, {where}")
    yield from _packages(software)


def _packages(software: Software) -> Iterator[Finding]:
    fine = True
    if software.lost:
        some = ", ".join(software.lost[:3]) + (" and others" if len(software.lost) > 3 else "")
        yield Finding("broken", "exo", f"files of it are gone: {some}", f"{_REINSTALL} brings them back.")
        fine = False
    if software.installed is None:
        says = f"{software.exo} runs from its source, without a record of what it needs"
        yield Finding("note", "exo", says, "scripts/setup, or pip install -e . in its folder, makes one.")
        fine = False
    elif software.installed != software.exo:
        says = f"{software.exo} is what runs, and {software.installed} what is installed"
        yield Finding("note", "exo", says, _REINSTALL + ", and restart what is running.")
        fine = False
    for package in software.packages:
        needs = f"{package.name}{package.wanted}"
        if package.installed is None:
            yield Finding("broken", "Packages", f"{package.name} is not installed", f"pip install '{needs}'")
        else:
            says = f"{package.name} is {package.installed}, and exo is made for {package.wanted}"
            yield Finding("note", "Packages", says, f"pip install '{needs}'")
    if fine and not software.packages:
        yield Finding("ok", "exo", f"{software.exo}, with all that it needs")


def _engines(engines: tuple[Engine, ...], formats: set[str]) -> Iterator[Finding]:
    able = {format for engine in engines if engine.problem is None for format in engine.formats}
    if able:
        fine = [f"{each.name} ({', '.join(each.formats)})" for each in engines if each.problem is None]
        yield Finding("ok", "Engines", ", ".join(fine))
    for engine in engines:
        if engine.problem is None:
            continue
        subject = f"Engine {engine.name}"
        wanted = sorted(formats & set(engine.formats) - able)
        says, _, remedy = engine.problem.partition("; ")
        if engine.name == "llamacpp":
            # The bundled model is GGUF, and always there.
            yield Finding("broken", subject, says, remedy or "pip install --force-reinstall xllamacpp")
        elif wanted:
            says = f"{says}, and there are {', '.join(wanted)} models here, which nothing else loads"
            yield Finding("broken", subject, says, remedy or None)
        elif engine.there:
            yield Finding("note", subject, f"installed, but cannot run: {says}", remedy or None)
        else:
            yield Finding("ok", subject, "not installed; no model here needs it")


# Disk and memory


def _storage(storage: Storage) -> Iterator[Finding]:
    where = storage.folder + ("" if storage.exists else " (made at the first start)")
    remedy = "Make it writable, or set EXO_HOME to a folder that is."
    if storage.problem is not None:
        says = f"{storage.folder} cannot be written: {storage.problem}"
        yield Finding("broken", "Disk", says, remedy)
        return
    if storage.free == 0 or storage.free_files == 0:
        what = "no room" if storage.free == 0 else "no room for one more file"
        yield Finding(
            "broken",
            "Disk",
            f"{where}: there is {what} on its disk",
            "exo rm takes a model away; EXO_HOME may be on another disk.",
        )
        return
    room = f"{where}: {gb(storage.free)} of {gb(storage.total)} free"
    if storage.free < _LITTLE_DISK:
        yield Finding("note", "Disk", f"{room}, less than most models take", "exo rm takes a model away.")
    elif storage.free_files is not None and storage.free_files < _FEW_FILES:
        yield Finding("note", "Disk", f"{room}, but it can take only {storage.free_files} more files")
    else:
        yield Finding("ok", "Disk", room)
    if storage.kind:
        says = f"{storage.folder} is on a slow disk ({storage.kind}): loading a model takes long"
        yield Finding("note", "Disk", says, "Set EXO_HOME to a folder on an SSD, if there is one.")


def _memory(memory: Memory) -> Iterator[Finding]:
    says = f"{gb(memory.total)}, {gb(memory.free)} of it free; all models together get {gb(memory.budget)}"
    if memory.total == 0:
        yield Finding("note", "Memory", "how much there is cannot be told", "exo --memory 6GB says so.")
    elif memory.budget > memory.usable:
        says = f"models may take {gb(memory.budget)}, and this process only gets {gb(memory.usable)}"
        yield Finding("note", "Memory", says, f"exo --memory {memory.usable * 3 // 4 // 10**6}MB")
    elif memory.free < memory.total / 10:
        yield Finding("note", "Memory", says, "Stop other programs, or unload models.")
    else:
        yield Finding("ok", "Memory", says)
    swapped = memory.swap_total - memory.swap_free
    if swapped > _SWAP:
        yield Finding(
            "slow" if memory.free < memory.total / 10 else "note",
            "Swap",
            f"{gb(swapped)} are swapped out: memory is or was short",
            "Unload models or stop other programs.",
        )
    if memory.usable < memory.total:
        says = f"control groups give this process {gb(memory.usable)} of the machine's {gb(memory.total)}"
        yield Finding("note", "Memory limit", says, "Raise it: docker --memory, or systemd's MemoryMax.")
    if memory.cores < memory.cpus:
        says = f"this process gets the time of {memory.cores} of {memory.cpus} CPUs"
        yield Finding("note", "CPU limit", says, "Raise it: docker --cpus, or systemd's CPUQuota.")
    if memory.killed:
        says = f"since its start the kernel has ended {', '.join(memory.killed)} for want of memory"
        yield Finding("note", "Killed", says, "exo --memory sets what models may take; choose less.")


# Clock, secrets, environment


def _clock(clock: Clock) -> Iterator[Finding]:
    now = datetime.fromtimestamp(clock.now, UTC)
    if now.year < _OLDEST:
        says = f"this machine takes it to be {now:%Y-%m-%d}: certificates fail, and so do downloads"
        yield Finding("broken", "Clock", says, "Set it: sudo timedatectl set-ntp true, or date -s.")
    elif clock.synchronised is False:
        says = f"{now:%Y-%m-%d %H:%M} UTC, not kept by the network"
        yield Finding("note", "Clock", says, "sudo timedatectl set-ntp true")
    else:
        kept = ", kept by the network" if clock.synchronised else ""
        yield Finding("ok", "Clock", f"{now:%Y-%m-%d %H:%M} UTC{kept}")


def _security(security: Security, evidence: Evidence) -> Iterator[Finding]:
    yield from _keys(security)
    asked = security.key or security.keys is not None
    mutual = evidence.https is not None and evidence.https.mutual
    if (open := _open_at(evidence)) and not asked and mutual:
        yield Finding("ok", "API key", f"none, and {open} is only for clients with a certificate")
    elif open and not asked:
        yield Finding(
            "note",
            "API key",
            f"none is set, so whoever reaches {open} may use the models",
            "EXO_API_KEY asks everybody for it; exo --host 127.0.0.1 is for this machine alone.",
        )
    elif open:
        how = "over HTTPS" if evidence.https else "unencrypted, over HTTP"
        yield Finding("ok", "API key", f"asked of everybody; it reaches {open} {how}")
    elif asked:
        yield Finding("ok", "API key", "asked of everybody")
    if open and asked and not (security.key or security.certificates):
        yield Finding(
            "note",
            "Cluster",
            "other nodes cannot pass requests on to this one: it asks them for a key, and they have none",
            "Set the same EXO_API_KEY on all nodes, or make certificates with exo cluster init.",
        )
    if open and not (security.secret or security.certificates):
        yield Finding(
            "note",
            "Cluster",
            "neither certificates nor a secret are set: any machine on the network can be one of its nodes",
            "exo cluster init makes certificates; or the same EXO_CLUSTER_SECRET on all nodes.",
        )
    for problem in security.credentials:
        says, _, remedy = problem.rpartition("; ")
        yield Finding(
            "broken" if "missing" in problem else "note", "Cluster", says or problem, remedy or None
        )
    for path in security.readable:
        yield Finding("note", "Secrets", f"{path} can be read by other users", f"chmod 600 {path}")
    for process in security.shown:
        says = f"the command line of {process}, which every user can read, has a secret in it"
        yield Finding("note", "Secrets", says, "Put it into the environment, or a file of mode 600.")
    if security.root:
        remedy = "Run it as a user of its own, so that a flaw of a library is not root's."
        yield Finding("note", "User", "this runs as root, and exo needs no privileges", remedy)


def _keys(security: Security) -> Iterator[Finding]:
    if security.guessable:
        says = "EXO_API_KEY has fewer than 16 characters and can be guessed"
        remedy = "openssl rand -hex 32 makes a good one; so does exo key add, with a name and limits."
        yield Finding("note", "API key", says, remedy)
    if security.keys_problem:
        says, _, remedy = security.keys_problem.rpartition("; ")
        yield Finding("broken", "API keys", says or security.keys_problem, remedy or None)
    elif security.keys == 0 and not security.key:
        remedy = "exo key add NAME makes one; without EXO_HOME/keys.json none is asked for."
        yield Finding("note", "API keys", "all have been taken away, and nobody is answered", remedy)
    elif security.keys:
        yield Finding("ok", "API keys", f"{security.keys}, which exo key list shows")


def _open_at(evidence: Evidence) -> str:
    """Where others reach the node, or would reach one that is started now; "" where nobody does."""
    node, security = evidence.node, evidence.security
    if node is not None and node.problem is None:
        port = urlsplit(node.url).port
        addresses = node.addresses
    else:
        port = next((each.number for each in evidence.ports if each.use == "exo's API"), None)
        addresses = security.open_at if security is not None else ()
    outside = [each for each in addresses if not each.startswith("127.") and each not in ("::1", "localhost")]
    if not outside:
        return ""
    host = f"[{outside[0]}]" if ":" in outside[0] else outside[0]
    return f"{host}:{port}" if port else host


def _surroundings(surroundings: Surroundings, evidence: Evidence) -> Iterator[Finding]:
    for fault in surroundings.faults:
        remedy = "exo config --check says all that is wrong with it; exo does not start with it."
        yield Finding("broken", "Configuration", fault, remedy)
    for complaint in surroundings.unknown:
        yield Finding("broken", "Environment", complaint, "Unset or rename it: exo does not start with it.")
    local = {"localhost", "127.0.0.1", "*"}
    if surroundings.proxies and not local & set(surroundings.past_proxy):
        names = " and ".join(f"{name} ({url})" for name, url in surroundings.proxies.items())
        says = f"{names} would take requests for this machine's own node, too"
        yield Finding(
            "note", "Proxy", says, "export no_proxy=localhost,127.0.0.1 and the other nodes' hosts."
        )
    elif surroundings.proxies and (outside := _unlisted(surroundings, evidence)):
        says = f"requests for the nodes {', '.join(outside[:4])} go through {', '.join(surroundings.proxies)}"
        yield Finding("note", "Proxy", says, f"Add them to no_proxy: {','.join(outside[:4])}")
    if surroundings.encoding.lower().replace("-", "") != "utf8":
        says = f"the locale's encoding is {surroundings.encoding}: answers may not be shown as they are"
        yield Finding("note", "Locale", says, "export LANG=C.UTF-8")
    if surroundings.open_files is not None and surroundings.open_files < _OPEN_FILES:
        says = f"{surroundings.open_files} are few for a server: each client needs one"
        yield Finding("note", "Open files", says, "ulimit -n 4096, or systemd's LimitNOFILE=4096.")


def _unlisted(surroundings: Surroundings, evidence: Evidence) -> list[str]:
    """Hosts of peers that `no_proxy` does not name."""
    peers = evidence.node.peers if evidence.node is not None else ()
    hosts = [urlsplit(peer.url).hostname or "" for peer in peers]
    ends = tuple(each.lstrip(".*") for each in surroundings.past_proxy)
    return [host for host in hosts if "*" not in surroundings.past_proxy and not host.endswith(ends)]
