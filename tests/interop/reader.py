"""A second reader of repositories, written from src/FORMATS.md alone ("the page"): it keeps the page true.

    reader.py verify REPO                       check everything; one line for each fault, naming the file
    reader.py extract REPO VM POINT DISK OUT    write a disk, each cluster checked; NAME.partial is an open session

Exit codes: 0 all is well, 1 cannot be read by this program, 2 usage, 3 damage found. Lines that begin with `note: ` are
no faults. Needs Python 3.11, and zstd(1) where a layer is compressed by it.
"""

import json
import re
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from blake3 import blake3

CLUSTER = 65_536
REGION_CLUSTERS = 8_192
REGION = CLUSTER * REGION_CLUSTERS
SERIAL_END = 1 << 23
ZEROES = bytes(CLUSTER)
ZERO_LEAF = blake3(ZEROES)


class Damage(Exception):
    """A file is not what the page says."""

    def __init__(self, path, what):
        super().__init__(f"{path}: {what}")
        self.path, self.what = Path(path), what


class Unsupported(Exception):
    """A later format."""


class Findings:
    """What a verification has found."""

    def __init__(self, repo):
        self.repo, self.faults = repo, 0
        self.seen = set()

    def fault(self, path, what):
        """Prints a fault, once."""
        line = f"{self._short(path)}: {what}"
        if line not in self.seen:
            self.seen.add(line)
            self.faults += 1
            print(line)

    def note(self, path, what):
        """Prints what is unusual and no fault."""
        print(f"note: {self._short(path)}: {what}")

    def check(self, is_right, path, what):
        """A fault unless it is right."""
        if not is_right:
            self.fault(path, what)

    def attempt(self, function, *arguments):
        """Calls; damage that ends the call becomes a fault, and the answer `None`."""
        try:
            return function(*arguments)
        except Damage as damage:
            self.fault(damage.path, damage.what)
        except OSError as error:
            self.fault(error.filename or arguments[0], error.strerror)
        except (AttributeError, TypeError, ValueError) as error:
            self.fault(arguments[0], f"has a field of another type: {error}")
        return None

    def _short(self, path):
        path = Path(path)
        return path.relative_to(self.repo) if path.is_relative_to(self.repo) else path


@lru_cache(maxsize=4096)
def leaf_of(cluster):
    """Section "Content root": the leaf of a cluster."""
    return blake3(cluster)


@lru_cache(maxsize=256)
def region_hash_of(leaves):
    """Section "Content root": the hash of a region's 8,192 leaves."""
    return blake3(leaves)


def content_root(size_bytes, region_hashes):
    """Section "Content root": the root over size and regions."""
    return blake3(struct.pack("<Q", size_bytes) + b"".join(region_hashes)).hex()


def divide_up(a, b):
    return -(-a // b)


# Sidecars


class Fields(dict):
    """An object of a sidecar, which says what it lacks."""

    def __init__(self, path, pairs):
        super().__init__(pairs)
        self.path = path

    def __missing__(self, name):
        raise Damage(self.path, f"has no `{name}`")


TAIL = re.compile(rb',\n  "blake3": "([0-9a-f]{64})"\n}\n\Z')
# What is left of it when a part is damaged.
PART_OF_TAIL = re.compile(rb'[0-9a-f]{64}"\n}\n\Z|\n  "blake3".{0,155}\Z', re.DOTALL)


def load_sidecar(path):
    """Section "JSON sidecars": schema, and the file's own hash where it carries one."""
    raw = path.read_bytes()
    if tail := TAIL.search(raw):
        if blake3(raw[:-68]).hex().encode() != tail[1]:
            raise Damage(path, "does not match its own `blake3`")
    elif PART_OF_TAIL.search(raw):
        raise Damage(path, "has `blake3` only in part")
    try:
        fields = json.loads(raw, object_pairs_hook=lambda pairs: Fields(path, pairs))
    except ValueError as error:
        raise Damage(path, f"is not JSON: {error}") from None
    if not isinstance(fields, Fields):
        raise Damage(path, "is not an object")
    if type(fields["schema"]) is not int or fields["schema"] < 1:
        raise Damage(path, "`schema` is no number")
    if fields["schema"] > 1:
        raise Unsupported(f"{path}: schema {fields['schema']} is of a later release")
    return fields


def load_repository(repo):
    """Section "restorefs.json"."""
    fields = load_sidecar(repo / "restorefs.json")
    if fields["format_version"] > 1 or fields["incompat"]:
        raise Unsupported(f"{repo}: format {fields['format_version']}, {fields['incompat']}")
    return fields


# Layers


class Sums:
    """Section "Sums"."""

    def __init__(self, path, layer_id):
        self.path = path
        data = path.read_bytes()
        if data[:8] != b"RFSSUMS1":
            raise Damage(path, "has another magic than RFSSUMS1")
        if len(data) < 104 or blake3(data[40:]) != data[8:40]:
            raise Damage(path, "does not match its own hash")
        version, flags, named = struct.unpack_from("<II16s", data, 40)
        if (version, flags) != (1, 0):
            raise Unsupported(f"{path}: version {version}, flags {flags:#x}")
        if named != layer_id:
            raise Damage(path, "is of another `layer_id` than its name says")
        self.disk_bytes, self.file_bytes, regions, touched, metadata = struct.unpack_from("<5Q", data, 64)
        if regions != divide_up(self.disk_bytes, REGION):
            raise Damage(path, f"has {regions} regions for {self.disk_bytes} bytes")
        if len(data) < 104 + 32 * regions + 16 * touched + 40 * metadata:
            raise Damage(path, "ends too early")
        at = 104
        self.regions = [data[at + 32 * n : at + 32 * n + 32] for n in range(regions)]
        at += 32 * regions
        touched = [struct.unpack_from("<QII", data, at + 16 * n) for n in range(touched)]
        at += 16 * len(touched)
        metadata = [struct.unpack_from("<Q32s", data, at + 40 * n) for n in range(metadata)]
        at += 40 * len(metadata)
        self.metadata = dict(metadata)
        for numbers in ([entry[0] for entry in touched], [entry[0] for entry in metadata]):
            if numbers != sorted(set(numbers)):
                raise Damage(path, "has a table that does not ascend")
        # The leaf of each guest cluster that the layer holds.
        self.leaves = {}
        for region, held, zero in touched:
            at = self._read_region(data, at, region, held)
            if zero != 0 or held == 0 or region >= regions:
                raise Damage(path, f"has a wrong entry for region {region}")
        if at != len(data):
            raise Damage(path, "goes on after the last leaf")

    def _read_region(self, data, at, region, held):
        bitmap = data[at : at + 1024]
        at += 1024
        clusters = [n for n in range(8 * len(bitmap)) if bitmap[n // 8] >> n % 8 & 1]
        if len(clusters) != held or at + 32 * held > len(data):
            raise Damage(self.path, f"does not have the {held} leaves of region {region}")
        for cluster in clusters:
            self.leaves[region * REGION_CLUSTERS + cluster] = data[at : at + 32]
            at += 32
        return at


class Layer:
    """Section "Layers": header and extensions. The tables are read by `load_tables`, once they are known to be good."""

    def __init__(self, path):
        self.path = path
        self.file = path.open("rb")
        self.file_bytes = path.stat().st_size
        head = self.read(0, CLUSTER)
        (magic, version, backing_at, backing_bytes, cluster_bits, self.disk_bytes, encryption, self.l1_entries,
         self.l1_at, self.refcounts_at, self.refcount_clusters, snapshots, _, incompatible, _, autoclear,
         refcount_order, header_bytes, self.compression) = struct.unpack_from(">4sIQIIQIIQQIIQQQQIIB", head)
        self._demand(magic == b"QFI\xfb" and version == 3, "is not QCOW2 of version 3")
        self._demand((cluster_bits, refcount_order) == (16, 4), "has other clusters or refcounts")
        self._demand((encryption, snapshots, autoclear) == (0, 0, 0), "has encryption, snapshots or bitmaps")
        self._demand(header_bytes == 112 and not any(head[105:112]), "has another header than one of 112 bytes")
        self._demand((incompatible, self.compression) in ((0, 0), (8, 1)), "has other incompatible features")
        self._demand(self.file_bytes % CLUSTER == 0, "is not whole clusters long")
        self._demand(self.disk_bytes % 512 == 0, "has a size that is no multiple of 512")
        extensions, end = self._extensions(head)
        self.layer_id = extensions.get(0x52465331, b"")
        self._demand(len(self.layer_id) == 16, "has no `layer_id`")
        self._demand(0x6803F857 in extensions, "has no names of features")
        self.backing = head[backing_at : backing_at + backing_bytes].decode(errors="replace") if backing_at else None
        if self.backing is not None:
            self._demand(extensions.get(0xE2792ACA) == b"qcow2", "has no backing format")
            self._demand(end <= backing_at < CLUSTER, "has its backing name elsewhere")
            self._demand("/" not in self.backing and self.backing.endswith(".qcow2"), "has a path as backing name")
        else:
            self._demand(0xE2792ACA not in extensions, "has a backing format and no backing file")

    @property
    def slot(self):
        return self.path.name.removesuffix(".qcow2")

    def _demand(self, is_right, what):
        if not is_right:
            raise Damage(self.path, what)

    def read(self, at, count):
        self.file.seek(at)
        data = self.file.read(count)
        self._demand(len(data) == count, f"ends before offset {at + count}")
        return data

    def _extensions(self, head):
        """Header extensions by type, and where they end."""
        found, at = {}, 112
        while True:
            self._demand(at + 8 <= CLUSTER, "has header extensions without end")
            kind, count = struct.unpack_from(">II", head, at)
            at += 8
            if kind == 0:
                return found, at
            found[kind] = head[at : at + count]
            at += divide_up(count, 8) * 8

    def load_sums(self):
        """Section "Sums", and "To verify" 3: the layer's sums, and its metadata clusters against them."""
        hyphened = "-".join(re.fullmatch("(.{8})(.{4})(.{4})(.{4})(.{12})", self.layer_id.hex()).groups())
        path = self.path.with_name(f"{self.slot}.{hyphened}.sums")
        self._demand(path.exists(), f"has no sums ({path.name})")
        self.sums = Sums(path, self.layer_id)
        self._demand(self.sums.file_bytes == self.file_bytes, "has another size than its sums say")
        for number, right in self.sums.metadata.items():
            self._demand(leaf_of(self.read(number * CLUSTER, CLUSTER)) == right, f"metadata cluster {number} is damaged")
        self._demand(self.sums.disk_bytes == self.disk_bytes, "has another virtual size than its sums say")

    def load_tables(self):
        """L1 and L2 tables: `map` gets the entry of each guest cluster that the layer holds. Then the refcounts."""
        self.map = {}
        uses = {0: 1}

        def use(at, count, what):
            self._demand(0 < at and at + count <= self.file_bytes, f"{what} lies outside")
            for number in range(at // CLUSTER, divide_up(at + count, CLUSTER)):
                uses[number] = uses.get(number, 0) + 1

        l1_clusters, l2_tables = divide_up(8 * self.l1_entries, CLUSTER), []
        use(self.l1_at, l1_clusters * CLUSTER, "the L1 table")
        use(self.refcounts_at, self.refcount_clusters * CLUSTER, "the refcount table")
        self._demand(self.l1_entries == divide_up(self.disk_bytes, REGION), "has an L1 table for another size")
        for region, entry in enumerate(struct.unpack(f">{self.l1_entries}Q", self.read(self.l1_at, 8 * self.l1_entries))):
            if entry == 0:
                continue
            self._demand(entry >> 63 == 1 and entry & 0x7F000000000001FF == 0, f"L1 entry {region} is wrong")
            at = entry & 0x00FFFFFFFFFFFE00
            use(at, CLUSTER, "an L2 table")
            l2_tables.append(at)
            for n, entry in enumerate(struct.unpack(">8192Q", self.read(at, CLUSTER))):
                if entry != 0:
                    self._map(region * REGION_CLUSTERS + n, entry, use)
        table = self.read(self.refcounts_at, self.refcount_clusters * CLUSTER)
        blocks = struct.unpack(f">{len(table) // 8}Q", table)
        for block in blocks:
            if block:
                use(block, CLUSTER, "a refcount block")
        metadata = {0} | {at // CLUSTER for at in (*blocks, *l2_tables) if at}
        for at, clusters in ((self.refcounts_at, self.refcount_clusters), (self.l1_at, l1_clusters)):
            metadata |= {at // CLUSTER + n for n in range(clusters)}
        self._demand(metadata == set(self.sums.metadata), "has metadata clusters that its sums do not name")
        for number in range(self.file_bytes // CLUSTER):
            block = blocks[number // 32768] if number // 32768 < len(blocks) else 0
            count = struct.unpack(">H", self.read(block + number % 32768 * 2, 2))[0] if block else 0
            right = uses.get(number, 0)
            self._demand(count == right, f"host cluster {number} has refcount {count} instead of {right}")

    def _map(self, cluster, entry, use):
        """Takes an L2 entry that is not zero."""
        self._demand(cluster * CLUSTER < self.disk_bytes, f"maps cluster {cluster} beyond its disk")
        self.map[cluster] = entry
        if entry >> 62 & 1:
            self._demand(entry >> 63 == 0, f"L2 entry of cluster {cluster} is wrong")
            first = entry & (1 << 54) - 1
            sectors = (entry >> 54 & 0xFF) + 1
            use(first // 512 * 512, sectors * 512, "a compressed cluster")
        elif entry & 1:
            self._demand(entry == 1, f"L2 entry of cluster {cluster} is wrong")
        else:
            self._demand(entry >> 63 == 1 and entry & 0x7F000000000001FF == 0, f"L2 entry of cluster {cluster} is wrong")
            at = entry & 0x00FFFFFFFFFFFE00
            self._demand(at % CLUSTER == 0, f"cluster {cluster} does not lie on a cluster")
            use(at, CLUSTER, "a data cluster")

    def cluster(self, cluster):
        """The bytes of a guest cluster that this layer holds."""
        entry = self.map[cluster]
        if entry >> 62 & 1:
            first = entry & (1 << 54) - 1
            count = ((entry >> 54 & 0xFF) + 1) * 512 - first % 512
            data = self._decompress(cluster, self.read(first, count))
        elif entry & 1:
            return ZEROES
        else:
            data = self.read(entry & 0x00FFFFFFFFFFFE00, CLUSTER)
        beyond = min(CLUSTER, self.disk_bytes - cluster * CLUSTER)
        self._demand(not any(data[beyond:]), f"cluster {cluster} is not zero beyond the end of the disk")
        return data

    def _decompress(self, cluster, stream):
        try:
            return decompress(stream, self.compression)
        except ValueError as error:
            raise Damage(self.path, f"compressed cluster {cluster}: {error}") from None


def decompress(stream, compression):
    """A cluster out of the stream that `stream` begins with."""
    data = inflate(stream) if compression == 0 else unzstd(stream)
    if len(data) != CLUSTER:
        raise ValueError(f"gives {len(data)} bytes")
    return data


def inflate(stream):
    """Section "Layers": raw deflate, window of 4 KiB; what follows the end of the stream is not its."""
    inflater = zlib.decompressobj(-12)
    try:
        data = inflater.decompress(stream, CLUSTER + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    if not inflater.eof:
        raise ValueError("the stream has no end")
    return data


def zstd_frame_bytes(stream):
    """RFC 8878, 3.1.1: the length of the frame that the stream begins with."""
    if stream[:4] != b"\x28\xb5\x2f\xfd" or len(stream) < 6:
        raise ValueError("no zstd frame")
    descriptor = stream[4]
    is_single = descriptor >> 5 & 1
    content_size = (is_single, 2, 4, 8)[descriptor >> 6]
    at = 5 + (1 - is_single) + (0, 1, 2, 4)[descriptor & 3] + content_size
    is_last = False
    while not is_last:
        if at + 3 > len(stream):
            raise ValueError("the frame has no end")
        block = int.from_bytes(stream[at : at + 3], "little")
        is_last = block & 1
        at += 3 + (1 if block >> 1 & 3 == 1 else block >> 3)
    return at + 4 * (descriptor >> 2 & 1)


@lru_cache(maxsize=4096)
def unzstd(stream):
    """Decompresses the one frame that the stream begins with, by zstd(1)."""
    frame = stream[: zstd_frame_bytes(stream)]
    done = subprocess.run(["zstd", "-q", "-d", "-c"], input=frame, capture_output=True, check=False)
    if done.returncode != 0:
        raise ValueError(done.stderr.decode(errors="replace").strip())
    return done.stdout


class Layers:
    """The layers of a VM, each read and checked once."""

    def __init__(self, directory, findings=None):
        self.directory, self.findings = directory, findings
        self.opened, self.resolved = {}, {}

    def layer(self, slot):
        """A layer with its sums and tables; damage of these is raised at each call, that of clusters reported once."""
        if slot not in self.opened:
            self.opened[slot] = self._open(slot)
            if isinstance(self.opened[slot], Layer):
                self._check_clusters(self.opened[slot])
        if isinstance(self.opened[slot], Damage):
            raise self.opened[slot]
        return self.opened[slot]

    def _open(self, slot):
        path = self.directory / f"{slot}.qcow2"
        try:
            if not path.exists():
                raise Damage(path, "is missing")
            layer = Layer(path)
            layer.load_sums()
            layer.load_tables()
            if set(layer.map) != set(layer.sums.leaves):
                raise Damage(layer.sums.path, "names other clusters as held than the tables of the layer")
            return layer
        except Damage as damage:
            return damage

    def _check_clusters(self, layer):
        """Section "To verify" 6: what the layer holds, against its leaves."""
        for cluster, right in layer.sums.leaves.items():
            data = self._attempt(layer.cluster, cluster)
            if data is not None and leaf_of(data) != right:
                self._report(layer.path, f"cluster {cluster} is damaged")

    def chain(self, slot):
        """Section "To verify" 2: the layers of a chain, the top first."""
        layers = []
        while slot is not None:
            layer = self.layer(slot)
            if layer in layers:
                raise Damage(layer.path, "is its own backing file")
            layers.append(layer)
            slot = layer.backing and layer.backing.removesuffix(".qcow2")
        return layers

    def leaves(self, slot):
        """The leaf of each cluster that is not zero, of the disk as of this layer: "To verify" 5.

        A cluster that the layer does not hold is the backing file's, and zero beyond its size: section "Layers".
        """
        self.chain(slot)
        return self._leaves(slot)

    def _leaves(self, slot):
        if slot in self.resolved:
            return self.resolved[slot]
        layer = self.layer(slot)
        leaves = {}
        if layer.backing:
            below = self.layer(layer.backing.removesuffix(".qcow2"))
            end = min(below.disk_bytes, layer.disk_bytes)
            leaves = {n: leaf for n, leaf in self._leaves(below.slot).items() if n * CLUSTER < end}
        for cluster, leaf in layer.sums.leaves.items():
            leaves.pop(cluster, None)
            if leaf != ZERO_LEAF:
                leaves[cluster] = leaf
        self.resolved[slot] = leaves
        self._check_regions(layer, leaves)
        return leaves

    def _check_regions(self, layer, leaves):
        """Section "To verify" 5: the region hashes in the sums of a layer."""
        by_region = {}
        for cluster, leaf in leaves.items():
            by_region.setdefault(cluster // REGION_CLUSTERS, {})[cluster % REGION_CLUSTERS] = leaf
        for region, right in enumerate(layer.sums.regions):
            own = by_region.get(region, {})
            found = region_hash_of(b"".join(own.get(n, ZERO_LEAF) for n in range(REGION_CLUSTERS)))
            if found != right:
                self._report(layer.path, f"region {region} has another content than its sums say")

    def _attempt(self, function, *arguments):
        if self.findings is None:
            return function(*arguments)
        return self.findings.attempt(function, *arguments)

    def _report(self, path, what):
        if self.findings is None:
            raise Damage(path, what)
        self.findings.fault(path, what)


# Sessions


class Log:
    """Section "Session log": what a session has written to one disk. `map` has `(kind, host offset, bytes)`."""

    def __init__(self, path, disk_bytes, source_bytes):
        self.path, self.map = path, {}
        self.disk_bytes, self.source_bytes, self.is_finished = disk_bytes, source_bytes, False
        data, at = path.read_bytes(), 0
        self.frames = 0
        while frame := self._frame(data, at):
            at += 24 + len(frame)
            for kind, count, cluster, value in struct.iter_unpack("<B3xIQQ", frame):
                self._replay(kind, count, cluster, value)
            self.frames += 1
        self.bytes_left = len(data) - at

    def _frame(self, data, at):
        """The records of the frame at an offset, or nothing if it is not whole."""
        if len(data) < at + 24:
            return None
        magic, count, number, check, zero = struct.unpack_from("<4sIQII", data, at)
        records = data[at + 24 : at + 24 + 24 * count]
        is_whole = magic == b"RFSR" and zero == 0 and number == self.frames and len(records) == 24 * count
        return records if is_whole and zlib.crc32(records, zlib.crc32(data[at : at + 16])) == check else None

    def _replay(self, kind, count, cluster, value):
        if kind == 1:
            self.map |= {cluster + n: ("data", value + n * CLUSTER, CLUSTER) for n in range(count)}
        elif kind == 2:
            self.map[cluster] = ("compressed", value, count)
        elif kind == 3:
            self.map |= {cluster + n: ("zero", 0, 0) for n in range(count)}
        elif kind == 4:
            for n in range(count):
                self.map.pop(cluster + n, None)
        elif kind == 5:
            self.disk_bytes, self.source_bytes = cluster, value
        elif kind == 6:
            self.is_finished = value == 1
        else:
            raise Damage(self.path, f"has a record of kind {kind}")


def extract_session(repo, vm, name, disk, out):
    """Sections "session.json" and "Session log": writes a disk of an open session as it is now."""
    directory = repo / "vms" / vm / "points" / f".{name}"
    session = load_sidecar(directory / "session.json")
    chosen = [entry for entry in session["disks"] if entry["name"] == disk]
    if not chosen:
        sys.exit(f"{directory} has no disk {disk}")
    entry = chosen[0]
    log = Log(directory / f"{entry.get('log', disk)}.map", entry["size_bytes"], entry["source_bytes"])
    layers = Layers(repo / "vms" / vm / "layers")
    chain = layers.chain(entry["parent"]["layer"]) if "parent" in entry else []
    compression = 1 if session.get("compression") == "zstd" else 0
    path = layers.directory / f"{entry['layer']}.open"
    with path.open("rb") as own, open(out, "wb") as file:
        for cluster in (layers.leaves(chain[0].slot) if chain else {}):
            if cluster not in log.map:
                file.seek(cluster * CLUSTER)
                file.write(next(layer for layer in chain if cluster in layer.map).cluster(cluster))
        for cluster, (kind, at, count) in log.map.items():
            own.seek(at)
            stored = own.read(count).ljust(count, b"\0")
            if kind == "compressed":
                try:
                    stored = decompress(stored, compression)
                except ValueError as error:
                    raise Damage(path, f"compressed cluster {cluster}: {error}") from None
            file.seek(cluster * CLUSTER)
            file.write(ZEROES if kind == "zero" else stored)
        file.truncate(log.source_bytes)
    return 0


# Verification


class Verifier:
    """Everything in a repository, in the order of the page."""

    def __init__(self, repo, findings):
        self.repo, self.findings = repo, findings
        self.serials = {}
        self.count = {"VMs": 0, "points": 0, "sessions": 0, "layers": 0}

    def run(self):
        self.findings.attempt(load_repository, self.repo)
        for directory in sorted((self.repo / "vms").iterdir()):
            if not directory.name.startswith("."):
                self.findings.attempt(self.vm, directory)
        print("note: read " + ", ".join(f"{count} {what}" for what, count in self.count.items()))

    def serial(self, serial, owner, path):
        """Section "Inode numbers": serials are given once in a repository. `path` says that `owner` has this one."""
        other = self.serials.setdefault(serial, owner)
        self.findings.check(other == owner, path, f"serial {serial} is that of {other} and of {owner}")
        self.findings.check(0 < serial < SERIAL_END, path, f"serial {serial} is out of bounds")

    def vm(self, directory):
        """All of a VM."""
        find = self.findings
        vm = find.attempt(load_sidecar, directory / "vm.json")
        index = find.attempt(load_sidecar, directory / "index.json")
        if vm:
            find.check(vm["name"] == directory.name, vm.path, "has another name than its directory")
            keys = [disk["key"] for disk in vm["disks"]]
            find.check(len(set(keys)) == len(keys), vm.path, "has a key twice")
            self.serial(vm["serial"], vm["name"], vm.path)
            if index:
                same = all(vm[name] == index[name] for name in ("vm_id", "name", "serial"))
                find.check(same, index.path, "is of another VM than vm.json")
        entries = {entry["point_id"]: entry for entry in index["points"]} if index else {}
        layers = Layers(directory / "layers", find)
        seqs, ids = {}, set()
        for path in sorted((directory / "points").iterdir()):
            if path.name.endswith(".partial") and path.name.startswith("."):
                find.attempt(self.session, path, vm, layers)
            elif not path.name.startswith("."):
                point = find.attempt(self.point, path, vm, index, entries, layers)
                if point:
                    ids.add(point["point_id"])
                    other = seqs.setdefault(point["seq"], path)
                    find.check(other == path, point.path, f"seq {point['seq']} is that of {other.name}, too")
        if index:
            self.index(index, ids)
        self.count["VMs"] += 1
        self.count["points"] += len(ids)
        self.count["layers"] += len(layers.resolved)
        for path in sorted((directory / "state").glob("[!.]*.json")):
            find.attempt(self.state, path, ids)

    def index(self, index, ids):
        """Section "index.json": what it says as a whole."""
        find, points = self.findings, index["points"]
        for name in ("seq", "serial"):
            numbers = [point[name] for point in points]
            find.check(len(set(numbers)) == len(numbers), index.path, f"gives a {name} twice")
            find.check(max(numbers, default=0) <= index[f"{name}_high"], index.path, f"`{name}_high` is too low")
        for point in points:
            self.serial(point["serial"], f"{index['name']}@{point['name']}", index.path)
            if point["point_id"] not in ids:
                find.note(index.path, f"names a point that is not there: {point['name']}")

    def session(self, directory, vm, layers):
        """Section "session.json": an open session; its parents are chains of this VM."""
        session = load_sidecar(directory / "session.json")
        self.findings.check(not vm or session["vm"] == vm["name"], session.path, "is of another VM")
        self.serial(session["serial"], f"{session['vm']}/{session['name']}", session.path)
        self.count["sessions"] += 1
        for disk in session["disks"]:
            with suppress(FileNotFoundError):
                name = disk.get("log", disk["name"])
                log = Log(directory / f"{name}.map", disk["size_bytes"], disk["source_bytes"])
                if log.bytes_left:
                    self.findings.note(log.path, f"{log.bytes_left} bytes after the last whole frame")
            if "parent" in disk:
                root = self.findings.attempt(self.root, layers, disk["parent"]["layer"])
                same = root in (None, disk["parent"]["content_root"])
                self.findings.check(same, session.path, f"{disk['name']}: the parent has another content")

    def root(self, layers, slot):
        """The content root of the disk as of a layer."""
        layers.leaves(slot)
        layer = layers.layer(slot)
        return content_root(layer.disk_bytes, layer.sums.regions)

    def state(self, path, ids):
        """Section "state/<point_id>.json"."""
        find, state = self.findings, load_sidecar(path)
        find.check(state["point_id"] == path.stem, path, "is of another point")
        if state["point_id"] not in ids:
            find.note(path, "is of no point")
        volumes = state.get("volumes")
        if volumes is not None:
            find.check(volumes["schema"] == 1 and volumes["complete"] is True, path, "has other volumes")
            for name in ("volumes", "files", "notes"):
                find.check(isinstance(volumes[name], list), path, f"`{name}` is no list")

    def point(self, directory, vm, index, entries, layers):
        """Sections "point.json" and "To verify" 1 to 7; answers the sidecar."""
        find = self.findings
        path = directory / "point.json"
        point = load_sidecar(path)
        find.check(point["name"] == directory.name, path, "has another name than its directory")
        if vm:
            find.check(point["vm_id"] == vm["vm_id"], path, "is of another VM")
        if entry := entries.get(point["point_id"]):
            right = blake3(path.read_bytes()).hex()
            find.check(entry["point_blake3"] == right, path, "does not match `point_blake3` in index.json")
            self.same(index, entry, point)
        elif index:
            find.note(path, "is not in index.json")
        kinds = {disk["kind"] for disk in point["disks"]}
        kind = "full" if kinds <= {"full"} else "differential" if "differential" in kinds else "incremental"
        find.check(point["kind"] == kind, path, f"`kind` is not {kind}")
        for disk in point["disks"]:
            find.attempt(self.disk, path, disk, layers)
        self.attached(directory, point)
        return point

    def same(self, index, entry, point):
        """Section "index.json": what it repeats of a point."""
        names = ["name", "seq", "kind", "captured_at", "committed_at", "attached"]
        parts = ["name", "layer", "size_bytes", "source_bytes", "data_bytes", "changed_bytes"]
        disks = [{part: disk[part] for part in parts} for disk in point["disks"]]
        is_same = all(entry[name] == point[name] for name in names)
        # `depth` is of the chain as it is now, not of the point.
        repeated = [{part: disk[part] for part in disk if part != "depth"} for disk in entry["disks"]]
        is_same &= repeated == disks and entry.get("parent") == point["parent"]
        self.findings.check(is_same, index.path, f"differs from point.json of {point['name']}")

    def disk(self, path, disk, layers):
        """A disk of a point: its layer, its content."""
        find, name, slot = self.findings, disk["name"], disk["layer"]
        size = divide_up(disk["source_bytes"], 512) * 512
        find.check(disk["size_bytes"] == size, path, f"{name}: `size_bytes` does not fit `source_bytes`")
        root = self.root(layers, slot)
        layer = layers.layer(slot)
        find.check(layer.disk_bytes == size, layer.path, f"has another size than {name} of {path.parent.name}")
        find.check(root == disk["content_root"], path, f"{name}: the content has another `content_root`")
        data_bytes = len(layers.leaves(slot)) * CLUSTER
        find.check(data_bytes == disk["data_bytes"], path, f"{name}: `data_bytes` is not {data_bytes}")
        if layer.layer_id.hex().startswith(slot[-6:]):
            held = len(layer.map) * CLUSTER
            find.check(held == disk["changed_bytes"], path, f"{name}: `changed_bytes` is not {held}")
        is_full = layer.backing is None
        find.check((disk["kind"] == "full") == is_full, path, f"{name}: `kind` does not fit the layer")
        below = None if is_full else self.root(layers, layer.backing.removesuffix(".qcow2"))
        find.check(below == disk.get("parent_content_root"), path, f"{name}: `parent_content_root` differs")

    def attached(self, directory, point):
        """Attached files: "To verify" 7."""
        find, named = self.findings, {file["name"]: file for file in point["attached"]}
        files = directory / "attached"
        there = {file.name for file in files.iterdir()} if files.exists() else set()
        for name in sorted(there | set(named)):
            if name not in there or name not in named:
                find.fault(files / name, "is missing" if name in named else "is not in point.json")
                continue
            data = (files / name).read_bytes()
            find.check(len(data) == named[name]["size_bytes"], files / name, "has another size")
            find.check(blake3(data).hex() == named[name]["blake3"], files / name, "is damaged")


def verify(repo):
    """Checks a repository; the exit code."""
    findings = Findings(repo)
    Verifier(repo, findings).run()
    return 3 if findings.faults else 0


def extract(repo, vm, point, disk, out):
    """Section "To verify": writes a disk, with everything checked that it is made of."""
    load_repository(repo)
    path = repo / "vms" / vm / "points" / point / "point.json"
    fields = load_sidecar(path)
    index = load_sidecar(repo / "vms" / vm / "index.json")
    for entry in index["points"]:
        if entry["point_id"] == fields["point_id"] and entry["point_blake3"] != blake3(path.read_bytes()).hex():
            raise Damage(path, "does not match `point_blake3` in index.json")
    chosen = [entry for entry in fields["disks"] if entry["name"] == disk]
    if not chosen:
        sys.exit(f"{path} has no disk {disk}")
    layers = Layers(repo / "vms" / vm / "layers")
    chain = layers.chain(chosen[0]["layer"])
    leaves = layers.leaves(chosen[0]["layer"])
    top = chain[0]
    if content_root(top.disk_bytes, top.sums.regions) != chosen[0]["content_root"]:
        raise Damage(top.path, "has another content root than point.json says")
    with open(out, "wb") as file:
        for cluster in leaves:
            holder = next(layer for layer in chain if cluster in layer.map)
            file.seek(cluster * CLUSTER)
            file.write(holder.cluster(cluster))
        file.truncate(chosen[0]["source_bytes"])
    return 0


def main(arguments):
    try:
        match arguments:
            case ["verify", repo]:
                return verify(Path(repo))
            case ["extract", repo, vm, name, disk, out] if name.endswith(".partial"):
                return extract_session(Path(repo), vm, name, disk, out)
            case ["extract", repo, vm, point, disk, out]:
                return extract(Path(repo), vm, point, disk, out)
    except Damage as damage:
        print(damage)
        return 3
    except (Unsupported, OSError) as error:
        print(f"reader.py: {error}", file=sys.stderr)
        return 1
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
