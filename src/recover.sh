#!/bin/sh
# recover.sh: restore a lifeboat store without lifeboat.
#
#   sh recover.sh STORE-DIR SERIES KEY-FILE TARGET [SNAPSHOT]
#
# STORE-DIR  a copy of the bucket on this disk: the directory with state/, secrets/ and keys/ in it
# SERIES     whose snapshots: a name below state/TIER/
# KEY-FILE   the recovery kit, lifeboat-key.txt (or any age identity file)
# TARGET     where to put it: the result is TARGET/home (your home directory) and TARGET/root (other places)
# SNAPSHOT   an id or the beginning of one; without it the newest that is signed with the kit's key
#
# It needs age, zstd and tar, better GNU tar; and minisign, to know that the archives come from your machine. It
# writes nothing outside TARGET, overwrites nothing, and shows TARGET/home and TARGET/root only when all is well.
# The comments say what each step does, so that you can do it by hand where the script gives up.
#
# Exit: 0 all is restored, 1 failed, 2 wrong usage, 3 restored but something is left out, 4 the store is damaged.

set -u
umask 077
LC_ALL=C
export LC_ALL

say() { printf '%s\n' "$*" | tr -c ' -~\n' '?'; }
warn() { say "recover: $*" >&2; }
die() { code=$1; shift; warn "$*"; exit "$code"; }
absolute() { case $1 in /*) printf '%s\n' "$1" ;; *) printf '%s\n' "$PWD/$1" ;; esac; }

if [ $# -lt 4 ] || [ $# -gt 5 ]; then
  die 2 "usage: sh recover.sh STORE-DIR SERIES KEY-FILE TARGET [SNAPSHOT]"
fi
store=$(absolute "$1") series=$2 key=$(absolute "$3") target=$(absolute "$4") wanted=${5-}
case $series in '' | [!a-z0-9]* | *[!a-z0-9._-]*) die 2 "not the name of a series: $series" ;; esac
case $wanted in *[!0-9a-fTZ-]*) die 2 "not a snapshot's id: $wanted" ;; esac
[ -d "$store/state" ] || [ -d "$store/secrets" ] || die 2 "no store there (neither state/ nor secrets/): $store"
[ -r "$key" ] || die 2 "cannot read the key file: $key"
for tool in age zstd tar sha256sum awk od; do
  command -v "$tool" >/dev/null || die 1 "$tool is not installed"
done

# Nothing is overwritten, and everything happens in a work directory inside TARGET until it is complete.
for top in home root; do
  if [ -e "$target/$top" ] || [ -L "$target/$top" ]; then die 2 "refusing to overwrite $target/$top"; fi
done
made=
[ -d "$target" ] || { mkdir -p "$target" && made=yes; } || die 1 "cannot make $target"
work=$target/.lifeboat-recover.$$
mkdir "$work" || die 1 "cannot make a work directory in $target"
cleanup() {
  cd /
  rm -rf "$work" 2>/dev/null || { find "$work" -type d -exec chmod u+rwx {} \; ; rm -rf "$work"; }
  [ -z "$made" ] || rmdir "$target" 2>/dev/null
}
trap 'cleanup' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
cd "$work" && mkdir refs tree || exit 1

# GNU tar restores extended attributes, sparse files and exact times; other tars restore less.
gnu=
for tar in tar gtar; do
  if "$tar" --version 2>/dev/null | grep -q 'GNU tar'; then gnu=yes; break; fi
done
[ -n "$gnu" ] || tar=tar
xattrs=$gnu

# A kit that is itself encrypted with a passphrase is opened once. By hand: age -d -o plain-key.txt lifeboat-key.txt
IFS= read -r first <"$key" || :
case $first in
  age-encryption.org/v1* | '-----BEGIN AGE ENCRYPTED FILE-----'*)
    age -d -o key "$key" || die 1 "the kit was not opened"
    key=$work/key ;;
esac

# ---------------------------------------------------------------- which snapshots are there, and who signed them

# The kit names the key that commits are signed with. Later keys count if the one before signed them over, in
# keys/SERIES/, each from a seq on. By hand: minisign -V -m commit -x commit.minisig -P 'the RW… of the kit'
public=$(tr -d '\r' <"$key" | sed -n 's/^# signing-public: *//p' | sed 1q)
verified=
if [ -z "$public" ]; then warn "warning: the key file has no '# signing-public:' line, so nothing can be verified"
elif ! command -v minisign >/dev/null; then warn "warning: minisign is not installed, so nothing can be verified"
else
  verified=yes from=0 known=
  # Keys that signed before it stand in the kit, too: "# signing-former: RW… till-seq N", the oldest first.
  tr -d '\r' <"$key" | sed -n 's/^# signing-former: *//p' >former
  while read -r old word till _; do
    [ "$word" = till-seq ] || continue
    case $till in '' | *[!0-9]* | ????????????????*) continue ;; esac
    echo "$from $till $old" >>trusted
    from=$till known="$known $old"
  done <former
  for file in "$store/keys/$series"/[0-9][0-9][0-9][0-9][0-9][0-9].pub; do
    said=$(minisign -VQm "$file" -x "$file.minisig" -P "$public" 2>/dev/null) || continue
    number=$(basename "$file" .pub | sed 's/^0*//') till=${said##* }
    case $till in '' | *[!0-9]* | ????????????????*) continue ;; esac
    [ "$said" = "lifeboat-key $series $number from-seq $till" ] && [ "$till" -gt "$from" ] || continue
    next=$(tr -d '\r' <"$file" | sed -n 2p)
    # A key that was given up never comes back.
    case "$known $public " in *" $next "*) continue ;; esac
    echo "$from $till $public" >>trusted
    known="$known $public" public=$next from=$till
  done
  echo "$from 9999999999999999 $public" >>trusted
fi

signed() { # DIRECTORY ID SEQ: is its commit signed by a trusted key, as this snapshot of this series?
  while read -r from till public; do
    said=$(minisign -VQm "$store/$1/commit" -x "$store/$1/commit.minisig" -P "$public" 2>/dev/null </dev/null) &&
      [ "$said" = "lifeboat $series $2" ] && [ "$3" -ge "$from" ] && [ "$3" -lt "$till" ] && return 0
  done <trusted
  return 1
}

# The objects of a snapshot are what its commit lists, volumes with ascending numbers, the manifest last: nothing else
# in the directory counts. Prints "sha256 size name" each; fails if the commit is not like that.
objects() {
  awk '/^# size / { size[$4] = $3; next }
    /^#/ { next }
    { name = substr($0, 67)
      if (over || length($1) != 64 || $1 ~ /[^0-9a-f]/ || substr($0, 65, 2) != "  " || size[name] !~ /^[0-9]+$/) bad = 1
      if (name == "manifest.jsonl.zst.age") over = 1
      else if (name !~ /^[0-9][0-9][0-9][0-9][0-9][0-9]\.tar\.zst\.age$/ || n++ && name "" <= last "") bad = 1
      last = name
      print $1, size[name], name }
    END { exit bad || !over || !n }' "$store/$1/commit"
}

d='[0-9]' h='[0-9a-f]'
id_shape="$d$d$d$d$d$d$d${d}T$d$d$d$d$d${d}Z-$h$h$h$h$h$h$h$h"

# Adds to the list KIND.list, if all agrees: seq, id, parent, the parent's digest, own digest, directory, whether the
# objects are there, and the secrets bundle it names with its digest.
consider() { # state|secrets DIRECTORY-BELOW-THE-STORE TIER
  name=${2##*/}
  id=${name%%.on.*} on=-
  [ "$id" = "$name" ] || on=${name#*.on.}
  # shellcheck disable=SC2254
  case $id in $id_shape) ;; *) return ;; esac
  # shellcheck disable=SC2254
  case $1:$on in *:- | state:$id_shape) ;; *) return ;; esac
  # The fields of the commit: lines "# name value".
  awk 'NR == 1 && $0 == "# lifeboat commit 1" { known = 1 }
    /^# / && !($2 in a) { a[$2] = $3; b[$2] = $4 }
    function f(v) { return v == "" ? "-" : v }
    END { if (known) print f(a["archive"]), f(a["series"]), f(a["id"]), f(a["seq"]), f(a["tier"]), f(a["parent"]),
        f(b["parent"]), f(a["bundle"]), f(b["bundle"]) }' "$store/$2/commit" >fields
  read -r c_archive c_series c_id seq tier parent parent_sum bundle <fields ||
    { warn "skipping $2: its commit is of an unknown format"; return; }
  case $seq in '' | *[!0-9]* | ????????????????*) warn "skipping $2: its commit has no seq"; return ;; esac
  if [ -n "$verified" ] && ! signed "$2" "$id" "$seq"; then
    warn "skipping $2: its commit is not signed with the kit's key as this snapshot"
    return
  fi
  [ "$3" = pinned ] && tier=pinned
  if [ "$c_archive $c_series $c_id $parent $tier" != "$1 $series $id $on $3" ]; then
    warn "skipping $2: its commit belongs to another place ($c_archive, $c_series, $c_id, parent $parent, tier $tier)"
    return
  fi
  sum=$(sha256sum <"$store/$2/commit") whole=1
  objects "$2" >objects || whole=0
  while read -r _ _ object; do [ -f "$store/$2/$object" ] || whole=0; done <objects
  echo "$seq $id $parent $parent_sum ${sum%% *} $2 $whole $bundle" >>"$1.list"
}

: >state.list; : >secrets.list
for commit in "$store"/state/*/"$series"/*/commit "$store"/secrets/"$series"/*/commit \
  "$store"/secrets-pinned/"$series"/*/commit; do
  [ -f "$commit" ] || continue
  dir=${commit#"$store/"}
  dir=${dir%/commit}
  case $dir in
    *[!A-Za-z0-9._/-]*) ;;
    state/*) tier=${dir#state/}; consider state "$dir" "${tier%%/*}" ;;
    *) consider secrets "$dir" - ;;
  esac
done
sort -rn state.list -o state.list && sort -rn secrets.list -o secrets.list || exit 1

# A chain is the snapshot, its parent (the id after "# parent", whose commit has the digest that stands behind it), and
# so on to a full. Prints the directories from the full on; or what is missing, and fails. A parent counts only with all
# its objects; those of the snapshot itself are looked at below.
chain() { # "ID DIGEST"
  awk -v at="$1" '
    { k = $2 " " $5; if (!(k in dir) || $7) { dir[k] = $6; up[k] = $3 " " $4; seq[k] = $1 + 0; whole[k] = $7 } }
    BEGIN { first = at }
    END {
      while (at in dir && (at == first || whole[at])) {
        out = dir[at] "\n" out
        if (up[at] ~ /^- /) { printf "%s", out; exit 0 }
        if ((up[at] in seq) && seq[up[at]] >= seq[at]) break
        at = up[at]
      }
      split(at, id, " "); print id[1]; exit 1
    }' state.list
}

chosen=
if [ -z "$verified" ] && [ -z "$wanted" ]; then
  awk '{ print "UNVERIFIED", $2, "seq", $1, $6 }' state.list
  die 1 "name one of these as SNAPSHOT to restore it without verification, or install minisign"
elif [ -n "$wanted" ]; then
  awk -v p="$wanted" 'index($2, p) == 1 && !seen[$2]++ { print $2, $5 }' state.list >matches
  [ -s matches ] || die 4 "no snapshot $wanted of series $series that can be trusted is in the store"
  [ "$(wc -l <matches)" -eq 1 ] || { cat matches >&2; die 2 "$wanted is the beginning of several ids"; }
  read -r chosen <matches
  chain "$chosen" >chain || die 4 "snapshot ${chosen% *} needs $(cat chain), which is not in the store, or not all of it"
  [ -n "$verified" ] || warn "warning: nobody knows who wrote ${chosen% *}: it is restored UNVERIFIED, as you named it"
else
  lost=
  while read -r _ id _ _ sum _; do
    case " $lost " in *" $id "*) continue ;; esac
    if chain "$id $sum" >chain; then chosen="$id $sum"; break; fi
    lost="$lost $(cat chain)"
    warn "skipping snapshot $id: it needs $(cat chain), which is not in the store, or not all of it"
  done <state.list
  if [ -z "$chosen" ]; then
    [ ! -s state.list ] || die 4 "no snapshot of series $series has its whole chain in the store"
    die 1 "no snapshot of series $series that is signed with the kit's key is in the store"
  fi
fi
say "snapshot ${chosen% *}, $(wc -l <chain | tr -d ' ') archive(s):"
cat chain

# ---------------------------------------------------------------- is every byte as it was signed

verify() { # DIRECTORY. By hand: cd there; sha256sum -c commit
  objects "$1" >objects || { warn "$1/commit does not list its objects as it must"; return 1; }
  while read -r _ size object; do
    [ -f "$store/$1/$object" ] || { warn "missing: $1/$object"; return 1; }
    [ "$(wc -c <"$store/$1/$object")" -eq "$size" ] || { warn "wrong size: $1/$object"; return 1; }
  done <objects
  awk '!/^#/' "$store/$1/commit" | (cd "$store/$1" && sha256sum -c -) >sums 2>&1 && return 0
  warn "damaged, in $1:"
  grep -v ': OK$' sums >&2
  return 1
}

opens() { # DIRECTORY: does the key file open it? The manifest is small, so it is tried on that.
  age -d -i "$key" "$store/$1/manifest.jsonl.zst.age" 2>age.said >/dev/null </dev/null && return 0
  warn "the key file does not open $1: $(sed 1q age.said)"
  return 1
}

result=0 state=yes secrets=
while read -r dir; do verify "$dir" || die 4 "nothing was restored; name an older snapshot as SNAPSHOT to try that"
done <chain
while read -r dir; do opens "$dir" || { state= result=3; break; }; done <chain

# Secrets are always full, and the newest bundle is taken. Unverified, only the one that the snapshot's commit names.
named=$(awk -v k="$chosen" '$2 " " $5 == k { print $8, $9; exit }' state.list)
if [ -n "$verified" ]; then secrets=$(awk '!n || ($2 == n && $7) { n = $2; d = $6 } END { print d }' secrets.list)
else secrets=$(awk -v k="$named" '$2 " " $5 == k { print $6; exit }' secrets.list); fi
newest=$(sed 1q secrets.list) newest=${newest%% *}
if [ "$named" != "- -" ] && ! awk -v k="$named" '$2 " " $5 == k { f = 1 } END { exit !f }' secrets.list &&
  { [ -z "$verified" ] || [ "${newest:-0}" -lt "$(awk -v k="$chosen" '$2 " " $5 == k { print $1; exit }' state.list)" ]; }
then
  warn "secrets bundle ${named% *}, which the snapshot names, is not in the store"
  result=3
fi
if [ -z "$secrets" ]; then say "no secrets bundle"
elif ! verify "$secrets"; then secrets= result=4
elif ! opens "$secrets"; then secrets= result=3
else say "secrets bundle $secrets"; fi
[ -n "$state$secrets" ] || die 1 "nothing was restored"
if [ -z "$gnu" ]; then
  warn "warning: this is not GNU tar: extended attributes, sparse files and some times and modes may come out wrong"
  [ $result -ne 0 ] || result=3
fi

# ---------------------------------------------------------------- unpacking one archive

# The tar stream of an archive: its volumes decrypted in order are one zstd stream, and that is one tar. By hand:
#   for v in [0-9]*.tar.zst.age; do age -d -i lifeboat-key.txt "$v"; done | zstd -d | tar -x
stream() {
  awk '!/^#/ && /\.tar\.zst\.age$/ { print $2 }' "$store/$1/commit" | while read -r volume; do
    age -d -i "$key" "$store/$1/$volume" </dev/null || { echo "$1/$volume" >>broken; break; }
  done | { zstd -dcq || echo "$1" >>broken; }
}
untar() { # ARGUMENTS...: reads to the end, even where tar stops early. Times of directories are set last, as files
  # come after them; and a file system that refuses an extended attribute is no reason to have nothing.
  [ -z "$xattrs" ] || set -- --xattrs --xattrs-include='*' "$@"
  [ -z "$gnu" ] || set -- --warning=no-timestamp --delay-directory-restore "$@"
  "$tar" -x -p -f - "$@" 2>"$work/tar.said"
  status=$?
  cat "$work/tar.said" >&2
  cat >/dev/null
  [ $status -ne 0 ] && grep -q xattr "$work/tar.said" || return $status
  echo attributes >"$work/incomplete"
  ! grep -v -e xattr -e 'Exiting with failure status' "$work/tar.said" >/dev/null
}

unpack() { # DIRECTORY: into new/, and refuses what does not belong into an archive
  [ ! -e new ] || discard new
  mkdir new || exit 1
  tarred=yes
  stream "$1" | untar -v -C new >members || tarred=
  [ ! -s broken ] || die 4 "cannot be decrypted or decompressed: $(cat broken)"
  {
    (cd new && ls -A | grep -vx -e home -e root -e lifeboat)
    find new ! -type d ! -type f ! -type l
    find new/. ! -name . -prune ! -type d
    [ ! -d new/lifeboat ] || find new/lifeboat ! -type d ! -type f
    [ -z "$gnu" ] || grep -v -E '^(home|root|lifeboat)/' members
    [ -z "$gnu" ] || grep -E '(^|/)[.][.](/|$)' members
    grep 'Member name contains' tar.said
  } >strange
  [ ! -s strange ] || die 4 "$1 has a member that does not belong there: $(sed 1q strange)"
  [ -z "$tarred" ] || return
  # A user other than root cannot give an attribute to a read-only file with tar, nor has the file then.
  [ -n "$xattrs" ] && grep -q xattr tar.said || die 1 "tar could not unpack $1"
  warn "once more, without extended attributes"
  echo attributes >incomplete
  xattrs=
  unpack "$1"
}

# ---------------------------------------------------------------- small tools

# Names may hold any byte but NUL, so lists are NUL-separated. This turns one into lines of shell, COMMAND 'a' 'b' …,
# with COUNT names each, every name in single quotes; the lines are then run with the dot command.
words() { # COMMAND COUNT
  od -An -v -tu1 | awk -v command="$1" -v count="$2" '
    BEGIN { for (i = 1; i < 256; i++) c[i] = sprintf("%c", i); q = c[39]; c[39] = q "\\" q q }
    { for (i = 1; i <= NF; i++) {
        if (!open) { printf "%s", (n % count ? " " : command " ") q; open = 1 }
        if ($i) printf "%s", c[$i + 0]
        else { open = 0; printf "%s", q (++n % count ? "" : "\n") }
    } }
    END { if (n % count) print ""; exit open }'
}

mode_of() { # PATH: its permission bits in octal
  ls -ldn "$1" | awk 'NR == 1 { for (i = 2; i <= 10; i++) n = n * 2 + (substr($1, i, 1) !~ /[-ST]/)
    s = 4 * (substr($1, 4, 1) ~ /[sS]/) + 2 * (substr($1, 7, 1) ~ /[sS]/) + (substr($1, 10, 1) ~ /[tT]/)
    print s int(n / 64) int(n / 8) % 8 n % 8 }'
}
keep() { touch -r "$1" "refs/$2" && mode_of "$1" >"refs/$2.mode"; } # PATH NAME: notes time and mode …
put_back() { read -r mode <"refs/$2.mode" && chmod "$mode" "$1" && touch -r "refs/$2" "$1"; } # … and sets them again

discard() { # PATHS...: also below directories without write permission
  rm -rf "$@" 2>/dev/null && return
  find "$@" -type d -exec chmod u+rwx {} \; 2>/dev/null
  rm -rf "$@" || die 1 "cannot remove what has to go in the work directory"
}
move_dir() { # DIRECTORY NEW-NAME: renaming a read-only directory needs permission for a moment
  keep "$1" moved && chmod u+rwx "$1" && mv "$1" "$2" && put_back "$2" moved || die 1 "cannot move a directory to $2"
}
sane() { # PATHS...: names inside home/ or root/, nothing else
  for p; do
    case /$p/ in *//* | */./* | */../*) die 4 "the archive names an impossible path: $p" ;; esac
    case $p in home | root | home/* | root/*) ;; *) die 4 "the archive names an impossible path: $p" ;; esac
  done
}
reachable() { # PATH: all its parents in tree/ are directories, none a symbolic link
  rest=$1/ at=tree
  while at=$at/${rest%%/*} rest=${rest#*/}; [ -n "$rest" ]; do
    if [ -L "$at" ] || [ ! -d "$at" ]; then return 1; fi
  done
}

# ---------------------------------------------------------------- applying an archive to tree/ (FORMAT.md section 4)

# Reads lifeboat/delta/N: path, base, size, extents. Writes plan/N, and the steps: which bytes of the patch go where.
# Extents that touch are copied in one go, in blocks as large as their offsets allow.
plan() {
  od -An -v -tu1 | awk -v plan="plan/$1" '
    function fail() { bad = 1; exit 1 }
    function emit(  k, b) {
      if (!len) return
      if (off % 4096 == 0 && pos % 4096 == 0) k = len - len % 4096
      for (b = 4096; k && b < 1048576 && !(off % (2 * b) || pos % (2 * b) || k % (2 * b)); ) b *= 2
      if (k) printf "extent %.0f %.0f %.0f %.0f\n", b, pos / b, off / b, k / b >"steps"
      if (len > k) printf "extent 1 %.0f %.0f %.0f\n", pos + k, off + k, len - k >"steps"
      pos += len
    }
    BEGIN { for (i = 1; i < 256; i++) c[i] = sprintf("%c", i); q = c[39]; c[39] = q "\\" q q; printf "" >"steps" }
    { for (i = 1; i <= NF; i++) {
        if ($i) { w = w c[$i + 0]; continue }
        if (++n == 1) print "to=" q w q >plan
        else if (n == 2) print "from=" q w q >plan
        else if (n == 3) { if (w !~ /^[0-9]+$/) fail(); size = w + 0; print "size=" w >plan }
        else {
          if (w !~ /^[0-9]+ [0-9]+$/) fail()
          split(w, e, " ")
          if (e[1] + e[2] > size) fail()
          if (e[1] + 0 == off + len) len += e[2]
          else { emit(); off = e[1] + 0; len = e[2] + 0 }
        }
        w = ""
    } }
    END { if (bad || n < 3 || w != "") exit 1; emit(); printf "total=%.0f\n", pos >plan }'
}
extent() { # BLOCK-SIZE SKIP SEEK COUNT
  dd if="$patch" of="$file" bs="$1" skip="$2" seek="$3" count="$4" conv=notrunc 2>dd.said ||
    { cat dd.said >&2; die 1 "cannot write in $target"; }
}
build() { # A delta: the base's content, cut or extended to the size, then the extents, in the member's own file, which
  # has the right owner, attributes, mode and time already. By hand: cp, dd bs=1 seek=SIZE, dd conv=notrunc, touch -r
  keep "$file" delta && chmod u+rw "$file" && plan "$n" <"$file" || die 4 "delta $n of $dir makes no sense"
  . "./plan/$n"
  sane "$to" "$from"
  if ! reachable "$from" || [ -L "tree/$from" ] || [ ! -f "tree/$from" ]; then
    die 4 "delta $n of $dir needs a file that its parent does not have: $from"
  fi
  patch=new/lifeboat/patch/$n
  if [ "$total" -gt 0 ]; then
    [ -f "$patch" ] && [ "$(wc -c <"$patch")" -eq "$total" ] || die 4 "patch $n of $dir is missing or too short"
  fi
  unreadable=
  [ -r "tree/$from" ] || { unreadable=yes; keep "tree/$from" base; chmod u+r "tree/$from"; }
  cp "tree/$from" "$file" && dd if=/dev/null of="$file" bs=1 seek="$size" 2>/dev/null || die 1 "cannot write in $target"
  [ -z "$unreadable" ] || put_back "tree/$from" base
  . ./steps
  put_back "$file" delta
}
settle() { # Moves a built file to its place.
  . "./plan/$n"
  reachable "$to" || die 4 "delta $n of $dir has no directory to go to: $to"
  if [ -L "tree/$to" ] || [ -d "tree/$to" ]; then discard "tree/$to"; fi
  mv -f "$file" "tree/$to" || die 1 "cannot write in $target"
}
each_delta() { # build|settle
  for file in new/lifeboat/delta/*; do
    n=${file##*/}
    case $n in '*') continue ;; *[!0-9]*) die 4 "strange member in $dir: lifeboat/delta/$n" ;; esac
    "$1"
  done
}
drop() { # PATHS...: deletes them, never through a symbolic link; what is not there is no error
  for p; do
    shift
    sane "$p"
    reachable "$p" && { [ -e "tree/$p" ] || [ -L "tree/$p" ]; } || continue
    parent=tree/$p parent=${parent%/*}
    [ -w "$parent" ] || chmod u+rwx "$parent"
    set -- "$@" "tree/$p"
  done
  [ $# -eq 0 ] || discard "$@"
}
place() { # DIRECTORIES..., parents first: moves what was extracted for them into tree/
  for d; do
    i=$((i + 1))
    [ -d "new/$d" ] || continue # gone with its parent
    if [ -L "tree/$d" ] || [ ! -d "tree/$d" ]; then
      discard "tree/$d"
      mv "new/$d" "tree/$d" || die 1 "cannot write in $target"
      continue
    fi
    keep "tree/$d" "$i"
    [ -w "tree/$d" ] && [ -x "tree/$d" ] || chmod u+rwx "tree/$d"
    find "new/$d/." ! -name . -prune ! -type d -exec sh -c 'for f; do t=$0${f##*/}
        if [ -d "$t" ] && [ ! -L "$t" ]; then rm -rf "$t" || exit 1; fi
      done
      mv -f "$@" "$0"' "tree/$d/" {} + || die 1 "cannot write in $target"
  done
}
calm() { # DIRECTORIES..., as place: gives those that were there their time and mode again
  for d; do
    i=$((i + 1))
    [ ! -f "refs/$i.mode" ] || put_back "tree/$d" "$i"
  done
}
tie() { # PATH TARGET: a hard link
  [ $# -eq 2 ] || die 4 "lifeboat/links of $dir is cut off"
  sane "$1" "$2"
  if ! reachable "$1" || ! reachable "$2" || [ -L "tree/$2" ] || [ ! -f "tree/$2" ]; then
    die 4 "$dir links to a file that is not there: $2"
  fi
  [ "$1" != "$2" ] || return 0
  discard "tree/$1"
  ln "tree/$2" "tree/$1" || die 1 "cannot make a hard link in $target"
}
unlog() { # DATABASES...: a log or journal that is left beside a copied database would spoil it
  for p; do
    sane "$p"
    for log in "$p-wal" "$p-shm" "$p-journal"; do
      reachable "$log" && { [ -e "tree/$log" ] || [ -L "tree/$log" ]; } || continue
      parent=tree/$log parent=${parent%/*}
      keep "$parent" log && chmod u+rwx "$parent" && discard "tree/$log" && put_back "$parent" log
    done
  done
}
list() { # FILE COMMAND COUNT: runs COMMAND with the names of a NUL-separated list
  [ -f "$1" ] || return 0
  words "$2" "$3" <"$1" >list.sh || die 4 "$1 of $dir is cut off"
  i=0
  . ./list.sh
}
member_dirs() { # Directory members once more, on top of what is there: owner, mode, time, attributes. tar does it last.
  [ -n "$gnu" ] || return 0
  sed -n '/^lifeboat\//d; /\/$/p' members >member-dirs
  [ -s member-dirs ] || return 0
  stream "$dir" | (cd tree && untar --no-recursion --unquote -T ../member-dirs) ||
    die 1 "tar could not unpack the directories of $dir"
}

apply() { # state|secrets: the archive in $dir
  say "unpacking $dir"
  unpack "$dir"
  if [ -z "$(ls -A tree)" ] && [ "$dir" = "${dir%.on.*}" ]; then # a full: there is nothing to merge with
    for top in home root; do [ ! -d "new/$top" ] || move_dir "new/$top" "tree/$top"; done
  else
    mkdir plan || exit 1
    each_delta build
    list new/lifeboat/deleted drop 100
    find new -type d ! -perm -700 -exec chmod u+rwx {} \;
    for top in home root; do
      [ ! -d "new/$top" ] || (cd new && find "$top" -type d -exec printf '%s\0' {} +)
    done >dirs
    list dirs place 100
    each_delta settle
    list new/lifeboat/links tie 2
    # Directories last. An incremental says how they are to be; a secrets bundle leaves the state's as they were.
    [ "$1" = state ] || member_dirs
    list dirs calm 100
    [ "$1" = secrets ] || member_dirs
    discard plan refs
    mkdir refs || exit 1
  fi
  list new/lifeboat/databases unlog 100
}

if [ -n "$state" ]; then
  while read -r dir <&3; do apply state; done 3<chain
fi
if [ -n "$secrets" ]; then dir=$secrets; apply secrets; fi

# Everything is verified and built: into place.
for top in home root; do
  [ -d "tree/$top" ] || continue
  if [ -e "$target/$top" ] || [ -L "$target/$top" ]; then die 1 "$target/$top has appeared meanwhile"; fi
  move_dir "tree/$top" "$target/$top"
done
made=
[ ! -e incomplete ] || [ $result -ne 0 ] || result=3
[ -n "$state" ] || warn "the state was left out"
[ $result -eq 0 ] && say "restored to $target" || warn "restored to $target, but not all: see above"
exit $result
