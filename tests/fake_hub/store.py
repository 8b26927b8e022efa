"""What the Hub of server.py keeps on disk: contents, repositories, commits, refs, and the storage of Xet."""
import hashlib
import json
import os
import re
import secrets
import shutil
import struct
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from threading import RLock

import yaml

LFS_SUFFIXES = 'safetensors bin pt pth ckpt onnx npy npz h5 msgpack mp4 zip gz tar'.split()
MAX_REGULAR = 10 * 2**20  # bytes; larger files have to be LFS


def now() -> str:
    return datetime.now(UTC).strftime('%Y-%m-%dT%H:%M:%S.%f')[:-3] + 'Z'


def write(path: Path, data: bytes) -> None:
    """Writes a file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{secrets.token_hex(4)}.tmp')
    temporary.write_bytes(data)
    os.replace(temporary, path)


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b'blob %d\0' % len(data) + data).hexdigest()


def front_matter(readme: bytes) -> tuple[dict, list[str], list[str]]:
    """What the Hub reads from a card's front matter: the metadata, errors and warnings."""
    match = re.match(r'\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)', readme.decode('utf-8', 'replace'), re.DOTALL)
    if match is None:
        return {}, [], ['empty or missing yaml metadata in repo card']
    try:
        data = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        return {}, [f'YAML metadata is not valid: {error}'], []
    if not isinstance(data, dict):
        return {}, ['YAML metadata must be a mapping'], []
    errors = [f'"{key}" must be a string' for key in ('library_name', 'pipeline_tag', 'license_name', 'license_link')
              if not isinstance(data.get(key, ''), str)]
    for key in ('tags', 'datasets', 'metrics', 'language', 'license', 'base_model'):
        value = data.get(key, [])
        if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(v, str) for v in value)):
            errors.append(f'"{key}" must be a string or a list of strings')
    index = data.get('model-index', [])
    for m, model in enumerate(index if isinstance(index, list) else [index]):
        if not (isinstance(model, dict) and isinstance(model.get('name'), str) and model['name']):
            errors.append(f'"model-index[{m}].name" is required')
            continue
        for r, result in enumerate(model.get('results') or []):
            needed = [('task', 'type'), ('dataset', 'type'), ('dataset', 'name')]
            errors += [f'"model-index[{m}].results[{r}].{a}.{b}" is required' for a, b in needed
                       if not isinstance((result.get(a) or {}).get(b), str)]
            if not result.get('metrics') or any('type' not in x or 'value' not in x for x in result['metrics']):
                errors.append(f'"model-index[{m}].results[{r}].metrics" needs a type and a value each')
    return data, errors, []


class Store:
    """The Hub's state on disk."""

    def __init__(self, root: Path):
        self.root = Path(root).resolve()
        self.lock = RLock()
        self.incoming = self.root / 'incoming'
        self.incoming.mkdir(parents=True, exist_ok=True)
        self.xet = XetStorage(self.root / 'xet')

    # contents

    def object(self, sha256: str) -> Path:
        return self.root / 'objects' / sha256[:2] / sha256

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.object(sha256).exists():
            write(self.object(sha256), data)
        return sha256

    def adopt(self, path: Path, sha256: str) -> bool:
        """Makes a finished upload an object; False, and the upload is gone, where its digest is another one."""
        with path.open('rb') as file:
            right = hashlib.file_digest(file, 'sha256').hexdigest() == sha256
        if not right:
            path.unlink()
            return False
        self.object(sha256).parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, self.object(sha256))
        return True

    def has(self, sha256: str) -> bool:
        """Whether a content is here; one that came through Xet is taken over now."""
        if self.object(sha256).exists():
            return True
        path = self.incoming / f'{sha256}.{secrets.token_hex(8)}'
        return self.xet.take(sha256, path) and self.adopt(path, sha256)

    # repositories

    def folder(self, kind: str, repo_id: str) -> Path:
        return self.root / 'repos' / kind / repo_id

    def load(self, kind: str, repo_id: str) -> dict | None:
        if not re.fullmatch(r'[\w-][\w.-]*/[\w-][\w.-]*', repo_id):
            return None
        try:
            return json.loads((self.folder(kind, repo_id) / 'repo.json').read_bytes())
        except FileNotFoundError:
            return None

    def save(self, repo: dict) -> None:
        write(self.folder(repo['kind'], repo['id']) / 'repo.json', json.dumps(repo, indent=1).encode())

    def repos(self, kind: str) -> list[dict]:
        files = sorted((self.root / 'repos' / kind).glob('*/*/repo.json'))
        return [json.loads(file.read_bytes()) for file in files]

    def moved_to(self, kind: str, repo_id: str) -> str | None:
        try:
            return json.loads((self.root / 'moved.json').read_bytes()).get(f'{kind}/{repo_id}')
        except FileNotFoundError:
            return None

    def move(self, repo: dict, new_id: str) -> None:
        target = self.folder(repo['kind'], new_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self.folder(repo['kind'], repo['id']), target)
        file = self.root / 'moved.json'
        moved = json.loads(file.read_bytes()) if file.exists() else {}
        write(file, json.dumps({**moved, f'{repo["kind"]}/{repo["id"]}': new_id}).encode())
        self.save({**repo, 'id': new_id})

    def commit(self, repo: dict, sha: str) -> dict | None:
        try:
            return json.loads((self.folder(repo['kind'], repo['id']) / 'commits' / f'{sha}.json').read_bytes())
        except FileNotFoundError:
            return None

    def resolve(self, repo: dict, revision: str) -> dict | None:
        """The commit that a branch, a tag, a full ref or a commit id names."""
        revision = re.sub(r'^refs/(heads|tags)/', '', revision)
        sha = repo['heads'].get(revision) or repo['tags'].get(revision) or revision
        return self.commit(repo, sha) if re.fullmatch(r'[0-9a-f]{40}', sha) else None

    def add_commit(self, repo: dict, ref: str, parent: str | None, tree: dict, **described: str) -> str:
        """Writes a commit (described by title, message, user) and moves the branch `ref` on to it; returns its id."""
        commit = dict(parent=parent, **described, date=now(), tree=tree)
        sha = hashlib.sha1(json.dumps([commit, secrets.token_hex(8)]).encode()).hexdigest()
        path = self.folder(repo['kind'], repo['id']) / 'commits' / f'{sha}.json'
        write(path, json.dumps({'id': sha, **commit}).encode())
        repo['heads'][ref] = sha
        self.save(repo)
        return sha

    def entry(self, data: bytes) -> dict:
        return dict(oid=blob_id(data), size=len(data), sha256=self.put(data), lfs=None)

    def lfs_entry(self, sha256: str) -> dict:
        size, xet = self.object(sha256).stat().st_size, self.xet.hash_of(sha256)
        pointer = f'version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n'.encode()
        lfs = dict(oid=sha256, size=size, pointerSize=len(pointer))
        return dict(oid=blob_id(pointer), size=size, sha256=sha256, lfs=lfs, **({'xetHash': xet} if xet else {}))

    def read(self, commit: dict, path: str) -> bytes | None:
        entry = commit['tree'].get(path)
        return None if entry is None else self.object(entry['sha256']).read_bytes()


class XetStorage:
    """The storage of Xet: deduplicated chunks of files, which the client writes and reads itself.

    hf_xet takes a folder (`local://FOLDER`) where the Hub names the address of its storage. One process at a time can
    open such a folder, so each token that the Hub gives out leads to a folder of its own: an empty one to write to, a
    copy of `all` to read from. What a commit names goes from the former into `all`, and becomes an object like any
    other, from which clients without Xet are served.
    """

    _TAKE = """if 1:
        import hf_xet, json, sys
        job, session = json.load(sys.stdin), hf_xet.XetSession()
        access = dict(token='xet', token_expiry_unix_secs=2**33)
        with session.new_file_download_group(endpoint='local://' + job['source'], **access) as group:
            group.start_download_file(hf_xet.XetFileInfo(job['hash'], job['size']), job['path'])
        with session.new_upload_commit(endpoint='local://' + job['all'], **access) as commit:
            commit.start_upload_file(job['path'], sha256=job['sha256'])
    """

    def __init__(self, root: Path):
        self.root, self.all = root, root / 'all'
        self.all.mkdir(parents=True, exist_ok=True)

    def folder_to_write(self) -> Path:
        folder = self.root / 'uploads' / secrets.token_hex(8)
        folder.mkdir(parents=True)
        return folder

    def folder_to_read(self, flip: int | None = None, truncate: int | None = None) -> Path:
        """A copy of all there is; if asked for, its chunks have one bit changed in that byte, or end at that byte."""
        folder = self.root / 'downloads' / secrets.token_hex(8)
        shutil.copytree(self.all, folder)
        if flip is not None or truncate is not None:
            for path in folder.glob('xet/xorbs/xorbs/default.*'):
                if path.suffix == '.tagset':
                    continue
                data = bytearray(path.read_bytes()[:truncate])
                if flip is not None and flip < len(data):
                    data[flip] ^= 1
                path.chmod(0o600)
                path.write_bytes(data)
        return folder

    def hash_of(self, sha256: str) -> str | None:
        path = self.root / 'hashes' / sha256
        return path.read_text() if path.exists() else None

    def take(self, sha256: str, path: Path) -> bool:
        """Writes the file with that sha256 to `path` if an upload holds it."""
        for shard in self.root.glob('uploads/*/xet/xorbs/shards/*.mdb'):
            for xet_hash, file_sha256, size in self.files(shard.read_bytes()):
                if file_sha256 != sha256:
                    continue
                copy = self.root / 'downloads' / secrets.token_hex(8)  # the client has the upload open
                shutil.copytree(shard.parents[3], copy)
                job = json.dumps(dict(source=str(copy), all=str(self.all), path=str(path), hash=xet_hash, size=size,
                                      sha256=sha256))
                env = {**os.environ, 'HF_HOME': str(self.root / 'home')}  # hf_xet writes its log there
                subprocess.run([sys.executable, '-c', self._TAKE], input=job, text=True, env=env, check=True)
                shutil.rmtree(copy)
                write(self.root / 'hashes' / sha256, xet_hash.encode())
                return True
        return False

    @staticmethod
    def files(shard: bytes):
        """Yields Xet's hash, sha256 and size of each file in a shard (records of 48 bytes, after a header of 48)."""
        def to_hex(digest):
            return ''.join(f'{word:016x}' for word in struct.unpack('<4Q', digest))

        position = 48
        while (digest := shard[position:position + 32]) != b'\xff' * 32:
            flags, count = struct.unpack_from('<II', shard, position + 32)
            records = range(position + 48, position + 48 * (count + 1), 48)
            size = sum(struct.unpack_from('<I', shard, record + 36)[0] for record in records)
            position += 48 * (1 + count + (count if flags >> 31 & 1 else 0))  # bit 31: a record to verify each
            if flags >> 30 & 1:  # one with the sha256
                yield to_hex(digest), to_hex(shard[position:position + 32]), size
                position += 48
