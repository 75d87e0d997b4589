"""Writes format-1 stores with stock tools only, following src/FORMAT.md and nothing else, for tests/stock/run.

    store.py random DIR SEED      a random history: DIR/store, DIR/kit.txt, DIR/expect/ID.json, DIR/ids
    store.py many DIR             a full and an incremental with 1,000 deltas, 20,000 deletions and 10,000 extents
    store.py hostile DIR          archives with members that must be refused: DIR/<case>/store
    store.py compare TREE JSON [DIR]    prints what differs, DIR's secrets included; fails if anything does
    store.py on-terminal COMMAND...     runs it, and types a passphrase when it is asked for one
"""
import hashlib, json, os, pty, random, shutil, stat, subprocess, sys

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
                f.write(head + body + sign)

    def identity(self):
        key = [l for l in sh("age-keygen").decode().splitlines() if l.startswith("AGE-SECRET-KEY-")][0]
        return key, sh("age-keygen", "-y", data=key.encode()).decode().strip()

    def new_id(self):
        self.count += 1
        self.seq += self.rng.randrange(1, 5000)
        return "20261121T%06dZ-%08x" % (self.count, self.rng.getrandbits(32))

    def seal(self, place, tar, archive, fields, key="sign.key"):
        """Cuts a tar into frames and volumes, and commits it at `place`, a directory below the store."""
        out = "%s/%s" % (self.store, place)
        os.makedirs(out)
        recipient = self.state_to if archive == "state" else self.secrets_to
        frames = [sh("zstd", "-q", "-1", "-c", data=tar[i:i + 1_000_000]) for i in range(0, len(tar), 1_000_000)]
        if archive == "secrets":
            frames.append(b"\x50\x2a\x4d\x18" + (1000).to_bytes(4, "little") + bytes(1000))
        per = self.rng.choice([1, 2, 100])
        objects = []
        for n, i in enumerate(range(0, len(frames), per)):
            objects.append(("%06d.tar.zst.age" % n, sh("age", "-r", recipient, data=b"".join(frames[i:i + per]))))
        header = json.dumps({"format": 1, "archive": archive, "series": self.series}).encode() + b"\n"
        manifest = sh("age", "-r", recipient, data=sh("zstd", "-q", "-c", data=header))
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

    def state(self, tree, tar, tier, parent=None, want=None):
        name = self.new_id()
        fields = ["# id " + name, "# seq %d" % self.seq, "# tier " + tier, "# generation " + name, "# life 2"]
        place = "state/%s/%s/%s" % (tier, self.series, name)
        if parent:
            fields.append("# parent %s %s" % (parent["id"], parent["sum"]))
            place += ".on." + parent["id"]
        if self.bundle:
            fields.append("# bundle %s %s 90" % self.bundle)
        record = {"id": name, "tree": tree, "place": place, "sum": self.seal(place, tar, "state", fields)}
        with open("%s/expect/%s.json" % (self.top, name), "w") as f:
            json.dump(describe(tree) if want is None else want, f)
        with open(self.top + "/ids", "a") as f:
            f.write("%s %s\n" % (name, place))
        return record

    def secrets(self, tar):
        name = self.new_id()
        fields = ["# id " + name, "# seq %d" % self.seq, "# life 90"]
        self.bundle = (name, self.seal("secrets/%s/%s" % (self.series, name), tar, "secrets", fields))
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
    """The members of an incremental of `tree` against `parent`, both directories."""
    old, new = describe(parent), describe(tree)
    stage = tree + ".stage." + str(rng.getrandbits(40))
    os.makedirs(stage + "/lifeboat/delta")
    os.makedirs(stage + "/lifeboat/patch")
    touched, members, links, deltas = set(), set(), [], 0
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
            delta(stage, deltas, parent, tree, p, base, rng)
            deltas += 1
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
    return tar((stage, own), (tree, sorted(map(encode, members))))


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
                os.utime(secret + "/" + path, ns=(n, n))
            os.chmod(secret + "/home/.agent/keys", 0o500)
            os.utime(secret + "/home/.agent/keys", ns=(7, 7))
            names = [b"home/.agent/keys", b"home/.agent/.env", b"home/.agent/keys/id"]
            store.secrets(tar((secret, names)))
        tree = history.copy()
        if n == 0:
            snapshots.append(store.state(tree, full_tar(tree, tops, [b"home/x.db"]), tier))
        else:
            parent = snapshots[[0, 0, 1, 2, 1][n] if tops else rng.randrange(n)]
            snapshots.append(store.state(tree, incremental_tar(parent["tree"], tree, tops, rng), tier, parent))
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
    store.state(live, incremental_tar(full, live, True, rng, whole=0), "daily", parent)


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
