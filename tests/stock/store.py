"""Writes format-1 stores with stock tools only, following src/FORMAT.md and nothing else, for tests/stock/run.

    store.py random DIR SEED      a random history: DIR/store, DIR/kit.txt, DIR/expect/ID.json, DIR/ids
    store.py many DIR             a full and an incremental with 1,000 deltas, 20,000 deletions and 10,000 extents
    store.py hostile DIR          archives with members that must be refused: DIR/<case>/store
    store.py compare TREE JSON [DIR]    prints what differs, DIR's secrets included; fails if anything does
    store.py on-terminal COMMAND...     runs it, and types a passphrase when it is asked for one
"""
import array, base64, functools, hashlib, io, json, os, pty, random, shutil, stat, subprocess, sys, tarfile

ZERO_MTIME = 1_700_000_000_000_000_000


def sh(*argv, data=None):
    return subprocess.run(argv, input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=True).stdout


def text(name):
    return name.decode("latin-1")


def xattrs(path):
    try:
        return {n: os.getxattr(path, n, follow_symlinks=False).hex() for n in os.listxattr(path, follow_symlinks=False)
                if n.startswith("user.")}
    except OSError:
        return {}


def describe(top):
    """Every entry below home and root: kind, mode, time, attributes, content, and the least name of its inode."""
    top = os.fsencode(top)
    paths = []
    for root in (b"home", b"root"):
        if not os.path.lexists(os.path.join(top, root)):
            continue
        paths.append(root)
        for at, dirs, files in os.walk(os.path.join(top, root)):
            paths += [os.path.relpath(os.path.join(at, n), top) for n in dirs + files]
    tree, inodes = {}, {}
    for path in sorted(paths):
        full = os.path.join(top, path)
        st = os.lstat(full)
        entry = {"mode": oct(st.st_mode & 0o7777), "mtime": st.st_mtime_ns}
        if stat.S_ISLNK(st.st_mode):
            entry.update(kind="symlink", target=text(os.readlink(full)))
        elif stat.S_ISDIR(st.st_mode):
            entry.update(kind="dir", xattrs=xattrs(full))
        else:
            with open(full, "rb") as f:
                entry.update(kind="file", size=st.st_size, sha=hashlib.sha256(f.read()).hexdigest(), xattrs=xattrs(full),
                             inode=inodes.setdefault((st.st_dev, st.st_ino), text(path)))
        tree[text(path)] = entry
    return tree


def compare(got, want):
    wrong = []
    for path in sorted(set(got) | set(want)):
        g, w = got.get(path), want.get(path)
        if g is None or w is None:
            wrong.append("%s %r" % ("missing" if g is None else "too much", path))
        elif g != w:
            wrong.append("%r: %s" % (path, {k: (g.get(k), w.get(k)) for k in set(g) | set(w) if g.get(k) != w.get(k)}))
    return wrong


class Blake3:
    """BLAKE3 as its specification has it, of all chunks at once: each is a lane of 64 bits in integers of any size."""
    IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
    ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
    START, END, PARENT, ROOT = 1, 2, 4, 8

    @staticmethod
    def lanes(values):
        return int.from_bytes(array.array("Q", values).tobytes(), "little")

    @staticmethod
    def values(lanes, count):
        out = array.array("Q")
        out.frombytes(lanes.to_bytes(8 * count, "little"))
        return out

    @classmethod
    def compress(cls, cv, words, count, counters, length, flags):
        one = cls.lanes([1] * count)
        mask = one * 0xFFFFFFFF
        v = [*cv, *(one * x for x in cls.IV[:4]), counters, 0, one * length, one * flags]
        turn = lambda x, n: (x >> n | x << 32 - n) & mask

        def mix(a, b, c, d, x, y):
            v[a] = v[a] + v[b] + x & mask
            v[d] = turn(v[d] ^ v[a], 16)
            v[c] = v[c] + v[d] & mask
            v[b] = turn(v[b] ^ v[c], 12)
            v[a] = v[a] + v[b] + y & mask
            v[d] = turn(v[d] ^ v[a], 8)
            v[c] = v[c] + v[d] & mask
            v[b] = turn(v[b] ^ v[c], 7)

        for _ in range(7):
            for n, places in enumerate(((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
                                        (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14))):
                mix(*places, words[2 * n], words[2 * n + 1])
            words = [words[n] for n in cls.ORDER]
        return [v[n] ^ v[n + 8] for n in range(8)]

    @classmethod
    def chunks(cls, data, first, count, flags):
        """Chaining values of chunks of equal length."""
        size = len(data) // count if count else 0
        blocks = max(1, -(-size // 64))
        words = array.array("I")
        for at in range(0, max(1, len(data)), max(1, size)):
            words.frombytes(data[at:at + size].ljust(blocks * 64, b"\0"))
        one = cls.lanes([1] * count)
        cv, counters = [one * x for x in cls.IV], cls.lanes(range(first, first + count))
        for block in range(blocks):
            last = block == blocks - 1
            length = size - 64 * block if last else 64
            mine = (cls.START if block == 0 else 0) | (cls.END | flags if last else 0)
            block_words = [cls.lanes(words[16 * block + n::16 * blocks]) for n in range(16)]
            cv = cls.compress(cv, block_words, count, counters, length, mine)
        return [cls.values(x, count) for x in cv]

    @classmethod
    def hex(cls, data):
        full = max(0, len(data) - 1) // 1024
        parts = [cls.chunks(data[:full * 1024], 0, full, 0)] if full else []
        parts.append(cls.chunks(data[full * 1024:], full, 1, 0 if full else cls.ROOT))
        rows = [array.array("Q", [x for part in parts for x in part[n]]) for n in range(8)]
        while len(rows[0]) > 1:
            pairs = len(rows[0]) // 2
            words = [cls.lanes(row[side:2 * pairs:2]) for side in (0, 1) for row in rows]
            one = cls.lanes([1] * pairs)
            flags = cls.PARENT | (cls.ROOT if len(rows[0]) == 2 else 0)
            merged = cls.compress([one * x for x in cls.IV], words, pairs, 0, 64, flags)
            rows = [cls.values(new, pairs) + row[2 * pairs:] for new, row in zip(merged, rows)]
        return b"".join(row[0].to_bytes(4, "little") for row in rows).hex()


@functools.lru_cache(maxsize=None)
def blake3(data):
    return Blake3.hex(data)


def blake3_of_file(path, sha, known={}):
    """Of a file whose SHA-256 is `sha`: most were there in the snapshot before."""
    if sha not in known:
        with open(path, "rb") as f:
            known[sha] = Blake3.hex(f.read())
    return known[sha]


def named(member, name):
    """A string as a JSON member: base64 where it is not UTF-8."""
    try:
        return {member: name.decode()}
    except UnicodeDecodeError:
        return {member + "_b64": base64.b64encode(name).decode()}


def moment(ns):
    return "%d.%09d" % (ns // 10**9, ns % 10**9)


def listed(top, names, mask=0o7777):
    """The manifest's entries, by path, of names below a directory, but for where their content is stored."""
    top, all_of_it, out = os.fsencode(top), describe(top), {}
    for name in sorted(map(encode, names)):
        e = all_of_it[text(name)]
        st = os.lstat(os.path.join(top, name))
        line = {**named("path", name), "kind": e["kind"]}
        out[name] = line
        if e["kind"] == "file" and e["inode"] != text(name):
            line.update(kind="hardlink", **named("target", encode(e["inode"])))
            continue
        line.update(uid=st.st_uid, gid=st.st_gid, mtime=moment(e["mtime"]))
        if e["kind"] == "symlink":
            line.update(named("target", encode(e["target"])))
            continue
        line["mode"] = "%o" % (int(e["mode"], 8) & mask)
        line["xattrs"] = {n: base64.b64encode(bytes.fromhex(v)).decode() for n, v in e["xattrs"].items()}
        if e["kind"] == "file":
            line.update(size=e["size"], blake3=blake3_of_file(os.path.join(top, name), e["sha"]))
    return out


def unnamed(line, member):
    return line[member].encode() if member in line else base64.b64decode(line[member + "_b64"])


def stored(tar, lines):
    """Adds where the tar holds the content of each entry."""
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8", errors="surrogateescape") as members:
        name = lambda m: m.pax_headers.get("GNU.sparse.name", m.name)
        places = {name(m).encode("utf-8", "surrogateescape"): m for m in members}
    for path, line in lines.items():
        if "delta" in line:
            patch = places.get(b"lifeboat/patch/%d" % line["delta"]["n"])
            if patch:
                line["delta"]["at"] = patch.offset_data
        elif line["kind"] == "file" and line["size"]:
            member = places[path]
            line["at"] = member.offset_data
            if member.sparse is not None:
                line["extents"] = [e for e in member.sparse if e[1]]


def tree_digest(lines):
    """Section 6."""
    out = bytearray()
    for path, line in sorted(lines.items()):
        of = lines[unnamed(line, "target")] if line["kind"] == "hardlink" else line
        fields = [path, line["kind"].encode()]
        fields += [b"777"] if line["kind"] == "symlink" else [of["mode"].encode(), of["mtime"].encode()]
        if line["kind"] == "file":
            fields += [str(line["size"]).encode(), line["blake3"].encode()]
        elif line["kind"] != "dir":
            fields.append(unnamed(line, "target"))
        for name, value in sorted(of.get("xattrs", {}).items()):
            fields += [name.encode(), blake3(base64.b64decode(value)).encode()]
        out += b"".join(f + b"\0" for f in fields) + b"\0"
    return Blake3.hex(bytes(out))


KINDS = {"file": "files", "dir": "directories", "symlink": "symlinks", "hardlink": "hardlinks", "missing": "missing",
         "deleted": "deleted"}


class Store:
    def __init__(self, top, series="vm1", rng=None):
        self.top, self.series, self.rng = top, series, rng or random.Random(0)
        self.store, self.seq, self.count, self.bundle = top + "/store", 1_700_000_000, 0, None
        os.makedirs(self.store)
        os.makedirs(top + "/expect")
        self.state_key, self.state_to = self.identity()
        self.secrets_key, self.secrets_to = self.identity()
        sh("minisign", "-G", "-W", "-f", "-p", top + "/sign.pub", "-s", top + "/sign.key")
        self.public = open(top + "/sign.pub").read().splitlines()[1]
        keys = self.store + "/keys/" + series
        os.makedirs(keys)
        shutil.copy(top + "/sign.pub", keys + "/000001.pub")
        state = "# state-recipient: %s\n%s\n" % (self.state_to, self.state_key)
        secrets = "# secrets-recipient: %s\n%s\n" % (self.secrets_to, self.secrets_key)
        sign = "# signing-public: %s\n" % self.public
        head = "# lifeboat recovery kit 1\n# series: %s\n" % series
        for name, body in (("kit", state + secrets), ("state", state), ("secrets", secrets)):
            with open("%s/%s.txt" % (top, name), "w") as f:
                os.fchmod(f.fileno(), 0o600)
                f.write(head + body + sign)

    def identity(self):
        key = [l for l in sh("age-keygen").decode().splitlines() if l.startswith("AGE-SECRET-KEY-")][0]
        return key, sh("age-keygen", "-y", data=key.encode()).decode().strip()

    def new_id(self):
        self.count += 1
        self.seq += self.rng.randrange(1, 5000)
        return "20261121T%06dZ-%08x" % (self.count, self.rng.getrandbits(32))

    def seal(self, place, tar, archive, fields, lines, tree, key="sign.key"):
        """Cuts a tar into frames and volumes, and commits it at `place`, a directory below the store. Its manifest has
        `lines`, entries by path; `tree` is the digest."""
        out = "%s/%s" % (self.store, place)
        os.makedirs(out)
        recipient = self.state_to if archive == "state" else self.secrets_to
        frames = [sh("zstd", "-q", "-1", "-c", data=tar[i:i + 1_000_000]) for i in range(0, len(tar), 1_000_000)]
        per = self.rng.choice([1, 2, 100])
        objects, volumes, table = [], [], []
        for n, i in enumerate(range(0, len(frames), per)):
            plain = b""
            for k, frame in enumerate(frames[i:i + per], i):
                length = min(1_000_000, len(tar) - 1_000_000 * k)
                table.append([n, len(plain), len(frame), 1_000_000 * k, length, blake3(frame)])
                plain += frame
            if archive == "secrets" and i + per >= len(frames):
                plain += b"\x50\x2a\x4d\x18" + (1000).to_bytes(4, "little") + bytes(1000)
            sealed = sh("age", "-r", recipient, data=plain)
            volumes.append({"header": sealed.index(b"\n", sealed.index(b"\n---") + 1) + 1, "plain": len(plain)})
            objects.append(("%06d.tar.zst.age" % n, sealed))
        said = {f.split()[1]: f.split()[2] for f in fields}
        counts = {k: 0 for k in KINDS.values()}
        for line in lines.values():
            counts[KINDS[line["kind"]]] += 1
        header = {"format": 1, "archive": archive, "series": self.series, "id": said["id"], "seq": int(said["seq"]),
                  **{k: said[k] for k in ("tier", "generation", "parent") if k in said}, "program": "store.py",
                  "started": "2026-11-21T20:15:00Z", "finished": "2026-11-21T20:15:00Z", "home": "/home/agent",
                  "sources": [{"path": "home"}, {"path": "root"}], "counts": counts,
                  "bytes": sum(l.get("size", 0) for l in lines.values()), "recipients": [recipient], "policy": "0" * 64,
                  "tree": tree, "databases": [], "skipped": [], "volumes": volumes, "frames": table, "future": [1]}
        manifest = "".join(json.dumps(l) + "\n" for l in [header] + [l for _, l in sorted(lines.items())]).encode()
        manifest = sh("age", "-r", recipient, data=sh("zstd", "-q", "-c", data=manifest))
        objects.append(("manifest.jsonl.zst.age", manifest))
        for name, data in objects:
            with open(out + "/" + name, "wb") as f:
                f.write(data)
        lines = ["# lifeboat commit 1", "# archive " + archive, "# series " + self.series] + fields + ["# future line"]
        lines += ["# size %d %s" % (len(data), name) for name, data in objects]
        lines += ["%s  %s" % (hashlib.sha256(data).hexdigest(), name) for name, data in objects]
        commit = ("\n".join(lines) + "\n").encode()
        with open(out + "/commit", "wb") as f:
            f.write(commit)
        name = fields[0].split()[2]
        sh("minisign", "-S", "-s", self.top + "/" + key, "-m", out + "/commit", "-x", out + "/commit.minisig",
           "-t", "lifeboat %s %s" % (self.series, name))
        return hashlib.sha256(commit).hexdigest()

    def state(self, tree, tar, tier, parent=None, want=None, lines=None, tops=True):
        """Commits a tar of the directory `tree`. Without `lines`, the manifest is that of a full, and nothing but
        recover.sh reads it."""
        whole = listed(tree, [p for p in describe(tree) if tops or p not in ("home", "root")])
        if lines is None:
            lines = {} if parent else whole
        if not want:
            stored(tar, lines)
        name = self.new_id()
        fields = ["# id " + name, "# seq %d" % self.seq, "# tier " + tier, "# generation " + name, "# life 2"]
        place = "state/%s/%s/%s" % (tier, self.series, name)
        if parent:
            fields.append("# parent %s %s" % (parent["id"], parent["sum"]))
            place += ".on." + parent["id"]
        if self.bundle:
            fields.append("# bundle %s %s 90" % self.bundle)
        sealed = self.seal(place, tar, "state", fields, lines, tree_digest(whole))
        record = {"id": name, "tree": tree, "place": place, "sum": sealed}
        with open("%s/expect/%s.json" % (self.top, name), "w") as f:
            json.dump(describe(tree) if want is None else want, f)
        with open(self.top + "/ids", "a") as f:
            f.write("%s %s\n" % (name, place))
        return record

    def secrets(self, tree, names, tar):
        lines = listed(tree, map(text, names), mask=0o700)
        stored(tar, lines)
        name = self.new_id()
        fields = ["# id " + name, "# seq %d" % self.seq, "# life 90"]
        place = "secrets/%s/%s" % (self.series, name)
        self.bundle = (name, self.seal(place, tar, "secrets", fields, lines, tree_digest(lines)))
        return name


def tar(*parts, extra=()):
    """One tar of (directory, names) parts, directories not descended into."""
    argv = ["tar", "-c", "--format=posix", "--xattrs", "--xattrs-include=user.*", "-S", "--sparse-version=1.0",
            "--no-recursion", "--null", *extra]
    lists = []
    for n, (top, names) in enumerate(parts):
        # tar would take a second name of an inode for a hard link; the caller decides what those are.
        path = "%s/.list.%d.%d" % (os.path.dirname(os.fsdecode(top)), os.getpid(), n)
        with open(path, "wb") as f:
            f.write(b"".join(name + b"\0" for name in names))
        lists.append(path)
        argv += ["-C", os.fsdecode(top), "-T", path]
    out = sh(*argv)
    for path in lists:
        os.unlink(path)
    return out


def on_terminal(*argv):
    """Runs a command on a terminal of its own, and answers every question for a passphrase."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(argv[0], argv)
    said = b""
    while True:
        try:
            data = os.read(terminal, 1000)
        except OSError:
            break
        said += data
        if b"passphrase" in said.lower() and said.rstrip(b" ").endswith(b":"):
            os.write(terminal, b"six words for a test\n")
            said = b""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def encode(name):
    return name.encode("latin-1")


def full_tar(tree, tops, databases=()):
    entries = [encode(p) for p in describe(tree) if tops or p not in ("home", "root")]
    kind = lambda p: 0 if os.path.isdir(os.path.join(os.fsencode(tree), p)) and not os.path.islink(
        os.path.join(os.fsencode(tree), p)) else 1
    entries.sort(key=lambda p: (kind(p), p))
    stage = tree + ".stage"
    os.makedirs(stage + "/lifeboat")
    with open(stage + "/lifeboat/databases", "wb") as f:
        f.write(b"".join(d + b"\0" for d in databases))
    return tar((stage, [b"lifeboat/databases"]), (tree, entries))


def incremental_tar(parent, tree, tops, rng, whole=0.2):
    """The tar of an incremental of `tree` against `parent`, both directories, and what its manifest lists."""
    old, new = describe(parent), describe(tree)
    stage = tree + ".stage." + str(rng.getrandbits(40))
    os.makedirs(stage + "/lifeboat/delta")
    os.makedirs(stage + "/lifeboat/patch")
    touched, members, links, deltas = set(), set(), [], {}
    deleted = [p for p in old if p not in new or new[p]["kind"] != old[p]["kind"]]
    deleted += ["home/never/was/%d" % rng.getrandbits(20)]
    touched.update(deleted)
    def groups(tree):
        names = {}
        for p, e in tree.items():
            if e["kind"] == "file":
                names.setdefault(e["inode"], []).append(p)
        return names

    old_groups, new_groups = groups(old), groups(new)
    dead = {}
    for p, e in old.items():
        if e["kind"] == "file" and e["size"] and p not in new:
            dead[e["sha"]] = p
    for p, e in new.items():
        if e["kind"] == "symlink" and old.get(p) != e:
            members.add(p)
            touched.add(p)
        elif e["kind"] == "dir" and old.get(p) != e:
            members.add(p)
            if p not in old:
                touched.add(p)
        elif e["kind"] == "file" and e["inode"] == p:
            if old.get(p) == e and old_groups.get(p) == new_groups[p]:
                continue
            names = new_groups[p]
            touched.update(names)
            links += [(q, p) for q in names if q != p]
            base = dead.get(e["sha"])
            if base is None and old.get(p, {}).get("kind") == "file":
                base = p
            if base is None and rng.random() < 0.1:
                base = rng.choice([q for q in old if old[q]["kind"] == "file"] or [None])
            if base is None or rng.random() < whole:
                members.add(p)
                continue
            extents = delta(stage, len(deltas), parent, tree, p, base, rng)
            deltas[p] = {"n": len(deltas), **named("base", encode(base)), "extents": extents}
    for p in touched:
        up = os.path.dirname(p)
        if new.get(up, {}).get("kind") == "dir":
            members.add(up)
    if not tops:
        members -= {"home", "root"}
    rng.shuffle(deleted)
    for name, fields in (("deleted", deleted), ("links", [x for pair in links for x in pair])):
        if fields:
            with open(stage + "/lifeboat/" + name, "wb") as f:
                f.write(b"".join(encode(x) + b"\0" for x in fields))
    own = []
    for at, _, files in os.walk(os.fsencode(stage)):
        own += sorted(os.path.relpath(os.path.join(at, f), os.fsencode(stage)) for f in files)
    lines = listed(tree, members | set(deltas) | {q for q, _ in links})
    for p, d in deltas.items():
        lines[encode(p)]["delta"] = d
    for p in deleted:
        lines.setdefault(encode(p), {**named("path", encode(p)), "kind": "deleted"})
    return tar((stage, own), (tree, sorted(map(encode, members)))), lines


def delta(stage, n, parent, tree, path, base, rng):
    """A delta of one file: blocks of 4096 that differ from the base's, which is first cut or extended with zeros."""
    path, base = encode(path), encode(base)
    full = os.path.join(os.fsencode(tree), path)
    with open(full, "rb") as f:
        data = f.read()
    with open(os.path.join(os.fsencode(parent), base), "rb") as f:
        before = f.read()[:len(data)].ljust(len(data), b"\0")
    extents = []
    for at in range(0, len(data), 4096):
        if data[at:at + 4096] != before[at:at + 4096]:
            length = len(data[at:at + 4096])
            if extents and sum(extents[-1]) == at and rng.random() < 0.9:
                extents[-1] = (extents[-1][0], extents[-1][1] + length)
            else:
                extents.append((at, length))
    name = "%s/lifeboat/delta/%d" % (stage, n)
    with open(name, "wb") as f:
        f.write(b"".join(x + b"\0" for x in [path, base, b"%d" % len(data)] + [b"%d %d" % e for e in extents]))
    if extents:
        with open("%s/lifeboat/patch/%d" % (stage, n), "wb") as f:
            f.write(b"".join(data[at:at + length] for at, length in extents))
    shutil.copystat(full, os.fsencode(name))
    return extents


class History:
    """A tree that changes at random, and what it was at each snapshot."""
    ODD = [b"-rf", b"--", b"a b", b" lead", b"trail ", b"new\nline", b"end\n", b"\xff\xfe", b"caf\xc3\xa9", b"q'uote", b'"dq"',
           b"back\\slash", b"\\n", b"*", b"?", b"[a]", b"$HOME", b"`id`", b"$(id)", b"tab\t", b"\x01\x02\x81\x88\x7f", b"~", b"#x",
           b"=", b"%s", b"a;b", b"&", b"!", b"L" * 200, bytes(range(1, 47)), bytes(range(48, 250)), b"...", b"-n", b"\r"]

    def __init__(self, top, rng, stock):
        self.top, self.rng, self.n, self.stock = top, rng, 0, stock
        self.live = top + "/live"
        for d in ("home/.agent/sub", "home/projects", "root/etc/x"):
            os.makedirs(self.live + "/" + d)
        for _ in range(30):
            self.create()
        for mode in (0o555, 0o700, 0o1777, 0o2750):
            self.make_dir(mode)

    def full(self, path):
        return os.path.join(os.fsencode(self.live), path)

    def of(self, *kinds):
        return [encode(p) for p, e in describe(self.live).items() if e["kind"] in kinds and p not in ("home", "root")]

    def stamp(self, path):
        self.n += 1
        at = self.rng.choice([ZERO_MTIME + self.rng.getrandbits(50), -1_500_000_000, self.n, 4_102_444_800_000_000_001])
        os.utime(self.full(path), ns=(at, at), follow_symlinks=False)

    def fresh(self):
        dirs = self.of("dir") or [b"home"]
        for _ in range(100):
            path = os.path.join(self.rng.choice(dirs), self.rng.choice(self.ODD + [b"f%d" % self.rng.randrange(40)]))
            if not os.path.lexists(self.full(path)) and path.count(b"/") < 8:
                return path
        return b"home/last%d" % self.rng.getrandbits(30)

    def content(self):
        size = self.rng.choice([0, 1, 100, 4095, 4096, 4097, 20000, 65536, 300000])
        return self.rng.randbytes(size)

    def create(self):
        path = self.fresh()
        with open(self.full(path), "wb") as f:
            f.write(self.content())
        os.chmod(self.full(path), self.rng.choice([0o644, 0o600, 0o755, 0o444, 0o400, 0o4755]))
        if self.rng.random() < 0.3:
            self.note(path)
        self.stamp(path)

    def make_dir(self, mode=0o755):
        path = self.fresh()
        os.mkdir(self.full(path))
        with open(self.full(path) + b"/inside", "wb") as f:
            f.write(self.content())
        self.stamp(path + b"/inside")
        os.chmod(self.full(path), mode)
        self.note(path)
        self.stamp(path)

    def symlink(self):
        path = self.fresh()
        os.symlink(self.rng.choice([b"/etc/passwd", b"..", b"gone\nwith", b"../projects", b"f1"]), self.full(path))
        self.stamp(path)

    def write(self, change):
        files = self.of("file")
        if files:
            path = self.rng.choice(files)
            with open(self.full(path), "r+b") as f:
                change(f, os.fstat(f.fileno()).st_size)
            self.stamp(path)

    def edit(self):
        def change(f, size):
            for _ in range(self.rng.randrange(1, 6)):
                f.seek(self.rng.randrange(size + 1))
                f.write(self.rng.randbytes(min(self.rng.choice([1, 10, 5000]), size)))
        self.write(change)

    def append(self):
        self.write(lambda f, size: (f.seek(0, 2), f.write(self.rng.randbytes(self.rng.choice([1, 4096, 9000])))))

    def truncate(self):
        self.write(lambda f, size: f.truncate(self.rng.randrange(size + 1)))

    def sparse(self):
        self.write(lambda f, size: (f.truncate(size + 1_000_000), f.seek(size + 1_200_000), f.write(b"end")))

    def rename(self):
        paths = self.of("file", "dir", "symlink")
        path, to = self.rng.choice(paths), self.fresh()
        if not to.startswith(path + b"/") and path not in (b"home/.agent", b"home/projects"):
            os.rename(self.full(path), self.full(to))

    def swap(self):
        files = self.of("file")
        if len(files) > 1:
            a, b = self.rng.sample(files, 2)
            os.rename(self.full(a), self.full(a) + b".swap")
            os.rename(self.full(b), self.full(a))
            os.rename(self.full(a) + b".swap", self.full(b))

    def change_kind(self):
        path = self.rng.choice(self.of("file", "dir", "symlink"))
        if path in (b"home/.agent", b"home/projects"):
            return
        full = self.full(path)
        was_dir = os.path.isdir(full) and not os.path.islink(full)
        shutil.rmtree(full) if was_dir else os.unlink(full)
        if was_dir:
            self.rng.choice([lambda: open(full, "wb").write(b"file now"), lambda: os.symlink(b"../projects", full)])()
        else:
            os.mkdir(full)
            with open(full + b"/child", "wb") as f:
                f.write(b"child")
        self.stamp(path)

    def hardlink(self):
        files = self.of("file")
        if files:
            os.link(self.full(self.rng.choice(files)), self.full(self.fresh()))

    def chmod(self):
        path = self.rng.choice(self.of("file", "dir"))
        if os.path.isdir(self.full(path)):
            os.chmod(self.full(path), self.rng.choice([0o555, 0o700, 0o755]))
        elif not (self.stock and xattrs(self.full(path))):
            os.chmod(self.full(path), self.rng.choice([0o600, 0o440, 0o2755, 0o755]))

    def note(self, path):
        """An extended attribute; in a stock history only where GNU tar can restore it without being root."""
        st = os.lstat(self.full(path))
        if self.stock and (stat.S_ISDIR(st.st_mode) or not st.st_mode & stat.S_IWUSR):
            return
        try:
            os.setxattr(self.full(path), "user.note", self.rng.choice([b"\n=%", self.rng.randbytes(20)]))
        except OSError:
            pass  # not every file system has them

    def attribute(self):
        path = self.rng.choice(self.of("file", "dir"))
        if os.path.isfile(self.full(path)) and xattrs(self.full(path)):
            os.removexattr(self.full(path), "user.note")
        else:
            self.note(path)

    def delete(self):
        path = self.rng.choice(self.of("file", "dir", "symlink"))
        if path not in (b"home/.agent", b"home/projects"):
            full = self.full(path)
            shutil.rmtree(full) if os.path.isdir(full) and not os.path.islink(full) else os.unlink(full)

    def step(self, count):
        for _ in range(count):
            self.rng.choice([self.create, self.create, self.make_dir, self.symlink, self.edit, self.edit, self.edit, self.append,
                             self.truncate, self.sparse, self.rename, self.rename, self.swap, self.swap, self.change_kind,
                             self.hardlink, self.chmod, self.attribute, self.delete])()

    def copy(self):
        self.n += 1
        to = "%s/copy%d" % (self.top, self.n)
        sh("cp", "-a", self.live, to)
        return to


def random_store(top, seed):
    rng = random.Random(seed)
    store, history = Store(top, rng=rng), History(top, rng, stock=seed % 3 == 2)
    tops = seed % 2 == 0
    snapshots = []
    for n, tier in enumerate(["monthly", "weekly", "daily", "hourly", "hourly"]):
        if n in (1, 3):
            secret = "%s/secret%d" % (top, n)
            os.makedirs(secret + "/home/.agent/keys")
            for path in ("home/.agent/.env", "home/.agent/keys/id"):
                with open(secret + "/" + path, "wb") as f:
                    f.write(b"secret %d\n" % n)
                os.chmod(secret + "/" + path, 0o600)
                os.utime(secret + "/" + path, ns=(n, n))
            os.chmod(secret + "/home/.agent/keys", 0o500)
            os.utime(secret + "/home/.agent/keys", ns=(7, 7))
            names = [b"home/.agent/keys", b"home/.agent/.env", b"home/.agent/keys/id"]
            store.secrets(secret, names, tar((secret, names)))
        tree = history.copy()
        if n == 0:
            snapshots.append(store.state(tree, full_tar(tree, tops, [b"home/x.db"]), tier, tops=tops))
        else:
            parent = snapshots[[0, 0, 1, 2, 1][n] if tops else rng.randrange(n)]
            made, lines = incremental_tar(parent["tree"], tree, tops, rng)
            snapshots.append(store.state(tree, made, tier, parent, lines=lines, tops=tops))
        history.step(rng.choice([0, 3, 25]) if n else 25)


def with_secrets(want, top):
    """What a tree is once the newest secrets are in it; directories of the state keep their time and mode."""
    want = dict(want)
    secret = describe(top + "/secret3")
    for path in ("home/.agent/keys", "home/.agent/.env", "home/.agent/keys/id"):
        want[path] = secret[path]
    return want


def many(top):
    rng = random.Random(1)
    store = Store(top, rng=rng)
    live = top + "/live"
    for d in ("big", "gone", "some"):
        os.makedirs("%s/home/%s" % (live, d))
    for n in range(1000):
        with open("%s/home/some/%d" % (live, n), "wb") as f:
            f.write(rng.randbytes(9000))
    for n in range(20000):
        open("%s/home/gone/a rather long name, so that it costs something %d" % (live, n), "wb").close()
    with open(live + "/home/big/file", "wb") as f:
        f.write(rng.randbytes(4096 * 20003 + 5))
    full = top + "/full"
    sh("cp", "-a", live, full)
    parent = store.state(full, full_tar(full, True), "monthly")
    shutil.rmtree(live + "/home/gone")
    for n in range(1000):
        with open("%s/home/some/%d" % (live, n), "r+b") as f:
            f.seek(rng.randrange(9000))
            f.write(b"new")
    with open(live + "/home/big/file", "r+b") as f:
        for n in range(10000):
            f.seek(4096 * 2 * n)
            f.write(b"new")
    made, lines = incremental_tar(full, live, True, rng, whole=0)
    store.state(live, made, "daily", parent, lines=lines)


def hostile(top):
    def case(name, build):
        os.makedirs("%s/%s/tree/home" % (top, name))
        store = Store("%s/%s" % (top, name))
        tree = store.top + "/tree"
        for path in ("/home/f", "/home/f-wal"):
            with open(tree + path, "w") as f:
                f.write("x")
        base = store.state(tree, full_tar(tree, True), "monthly")
        build(store, tree, base)

    def member(*extra):
        def build(store, tree, base):
            data = tar((tree, [b"home/f"]), extra=("-P", *extra))
            store.state(tree, data, "daily", base)
        return build

    def own(**files):
        def build(store, tree, base):
            stage = store.top + "/own"
            os.makedirs(stage + "/lifeboat/delta")
            os.makedirs(stage + "/lifeboat/patch")
            for name, data in files.items():
                with open(stage + "/lifeboat/" + name.replace("_", "/"), "wb") as f:
                    f.write(data)
            names = [b"lifeboat/" + name.replace("_", "/").encode() for name in files]
            store.state(tree, tar((stage, names)), "daily", base)
        return build

    def through_link(store, tree, base):
        second = store.top + "/second"
        os.makedirs(second + "/home")
        os.symlink(store.top + "/outside", second + "/home/link")
        os.makedirs(store.top + "/outside")
        with open(store.top + "/outside/precious", "w") as f:
            f.write("x")
        child = store.state(second, tar((second, [b"home/link"])), "daily", base)
        stage = store.top + "/own"
        os.makedirs(stage + "/lifeboat")
        with open(stage + "/lifeboat/deleted", "wb") as f:
            f.write(b"home/link/precious\0")
        store.state(second, tar((stage, [b"lifeboat/deleted"])), "hourly", child, want={})

    case("absolute", member("--transform=s,^home/,/tmp/home/,"))
    case("dotdot", member("--transform=s,^home/,home/../,"))
    case("elsewhere", member("--transform=s,^home/,etc/,"))
    case("delete-dotdot", own(deleted=b"home/../../x\0"))
    case("delete-absolute", own(deleted=b"/etc/x\0"))
    case("delete-cut-off", own(deleted=b"home/f"))
    case("delta-to-dotdot", own(delta_0=b"home/../x\0home/f\0001\0"))
    case("delta-of-nothing", own(delta_0=b"home/f\0home/none\0001\0"))
    case("delta-without-patch", own(delta_0=b"home/f\0home/f\0001\0000 1\0"))
    case("delta-beyond-the-end", own(delta_0=b"home/f\0home/f\0001\0004096 1\0", patch_0=b"x"))
    case("delta-of-words", own(delta_0=b"home/f\0home/f\0001\000$(id) 1\0", patch_0=b"x"))
    case("link-to-nothing", own(links=b"home/g\0home/none\0"))
    case("link-odd", own(links=b"home/g\0"))
    case("delete-through-link", through_link)
    case("stale-log", own(databases=b"home/f\0"))


def main(command, *args):
    if command == "random":
        random_store(args[0], int(args[1]))
    elif command == "many":
        many(*args)
    elif command == "hostile":
        hostile(*args)
    elif command == "on-terminal":
        return on_terminal(*args)
    elif command == "compare":
        want = json.load(open(args[1]))
        if len(args) > 2:
            want = with_secrets(want, args[2])
        got = describe(args[0])
        for tree in (got, want):  # may be no members
            tree.pop("home", None)
            tree.pop("root", None)
        wrong = compare(got, want)
        print("\n".join(wrong[:20]))
        return 1 if wrong else 0
    return 0


sys.exit(main(*sys.argv[1:]))
