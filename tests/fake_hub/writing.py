"""What the Hub of server.py answers to those who change something: repositories, uploads, commits, refs."""
import base64
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
from pathlib import Path

from .handler import API, HubError, route
from .reading import Reading
from .store import LFS_SUFFIXES, MAX_REGULAR, front_matter, now


class Writing(Reading):
    """The endpoints that change something."""

    # repositories

    @route('POST', '/api/repos/create')
    def create_repo(self):
        body, store = self.json(), self.hub.store
        kind, name = f'{body.get("type") or "model"}s', body.get('name') or ''
        repo_id = f'{body.get("organization") or self.user}/{name}'
        self.need_write(repo_id.split('/')[0])
        if not re.fullmatch(r'[\w-][\w.-]{0,95}', name) or kind not in ('models', 'datasets', 'spaces'):
            raise HubError(400, f'Invalid repo name or type: {name} {kind}')
        url = self.web_url(kind, repo_id)
        with store.lock:
            if store.load(kind, repo_id) is not None:
                raise HubError(409, f'You already created this {kind[:-1]} repo: {repo_id}', url=url)
            private = body.get('visibility', 'private' if body.get('private') else 'public') == 'private'
            repo = dict(id=repo_id, kind=kind, private=private, created=now(), heads={}, tags={})
            attributes = ''.join(f'*.{s} filter=lfs diff=lfs merge=lfs -text\n' for s in LFS_SUFFIXES).encode()
            tree = {'.gitattributes': store.entry(attributes)}
            store.add_commit(repo, 'main', None, tree, title='initial commit', message='', user=self.user)
        self.send_json(dict(url=url, name=repo_id, id=repo_id, private=private))

    @route('DELETE', '/api/repos/delete')
    def delete_repo(self):
        body = self.json()
        repo_id = f'{body.get("organization") or self.user}/{body.get("name")}'
        with self.hub.store.lock:
            repo = self.repo(f'{body.get("type") or "model"}s', repo_id, write=True)
            shutil.rmtree(self.hub.store.folder(repo['kind'], repo['id']))
        self.send_json({})

    @route('POST', '/api/repos/move')
    def move_repo(self):
        body, store = self.json(), self.hub.store
        with store.lock:
            repo = self.repo(f'{body.get("type") or "model"}s', body['fromRepo'], write=True)
            self.need_write(body['toRepo'].split('/')[0])
            if store.load(repo['kind'], body['toRepo']) is not None:
                raise HubError(409, f'{body["toRepo"]} exists already')
            store.move(repo, body['toRepo'])
        self.send_json({})

    @route('PUT', API + '/settings')
    def settings(self, kind, repo_id):
        body = self.json()
        with self.hub.store.lock:
            repo = self.repo(kind, repo_id, write=True)
            if 'visibility' in body or 'private' in body:
                repo['private'] = body['visibility'] == 'private' if 'visibility' in body else bool(body['private'])
            self.hub.store.save(repo)
        self.send_json(dict(private=repo['private'], visibility='private' if repo['private'] else 'public'))

    # uploads and commits

    @route('POST', '/api/validate-yaml')
    def validate_yaml(self):
        _, errors, warnings = front_matter(self.json().get('content', '').encode())
        self.send_json(dict(errors=[dict(message=m) for m in errors], warnings=[dict(message=m) for m in warnings]),
                       400 if errors else 200)

    @route('POST', API + '/preupload/([^/]+)')
    def preupload(self, kind, repo_id, revision):
        repo = self.repo(kind, repo_id, write=True)
        commit = self.revision(repo, revision)
        lines = (self.hub.store.read(commit, '.gitattributes') or b'').decode().splitlines()
        patterns = [line.split()[0] for line in lines if 'filter=lfs' in line]
        files = []
        for file in self.json()['files']:
            path, entry = file['path'], commit['tree'].get(file['path'])
            binary = b'\0' in base64.b64decode(file.get('sample') or '')
            lfs = binary or file['size'] > MAX_REGULAR or any(
                fnmatch.fnmatch(name, p) for p in patterns for name in (path, path.split('/')[-1]))
            files.append(dict(path=path, uploadMode='lfs' if lfs else 'regular', shouldIgnore=False))
            if entry:
                files[-1]['oid'] = entry['sha256'] if entry['lfs'] else entry['oid']
        self.send_json(dict(files=files, commitOid=commit['id']))

    @route('POST', r'(?:/(datasets|spaces))?/([^/]+/[^/]+)\.git/info/lfs/objects/batch')
    def lfs_batch(self, kind, repo_id):
        repo, body, objects = self.repo(kind or 'models', repo_id, write=True), self.json(), []
        multipart = self.hub.part_size is not None and 'multipart' in body.get('transfers', [])
        xet = self.hub.xet and 'xet' in body.get('transfers', [])  # asked here by clients before 1.0
        for item in body['objects']:
            oid, size = item['oid'], item['size']
            if not re.fullmatch(r'[0-9a-f]{64}', oid):
                objects.append(dict(oid=oid, size=size, error=dict(code=422, message='not a sha256')))
                continue
            if xet or self.hub.store.object(oid).exists():
                objects.append(dict(oid=oid, size=size))
                continue
            upload = secrets.token_hex(8)
            address = f'{self.hub.cdn_url}/lfs/{oid}/{upload}?Signature={self.hub.sign(oid + upload)}'
            action = dict(href=address)
            if multipart and size > self.hub.part_size:
                numbers = range(1, -(-size // self.hub.part_size) + 1)
                action['header'] = {'chunk_size': str(self.hub.part_size),
                                    **{f'{n:05d}': f'{address}&partNumber={n}' for n in numbers}}
            verify = f'{self.web_url(repo["kind"], repo["id"])}.git/info/lfs/verify'
            objects.append(dict(oid=oid, size=size, actions=dict(upload=action, verify=dict(href=verify))))
        self.send_json(dict(transfer='xet' if xet else 'multipart' if multipart else 'basic', objects=objects))

    def incoming(self, oid: str, upload: str, part: str = '') -> Path:
        if self.query.get('Signature') != self.hub.sign(oid + upload):
            raise HubError(403, 'SignatureDoesNotMatch')
        return self.hub.store.incoming / f'{oid}.{upload}{"." + str(int(part)) if part else ""}'

    @route('PUT', r'/lfs/([0-9a-f]{64})/([0-9a-f]{16})')
    def lfs_put(self, oid, upload):
        part = self.query.get('partNumber', '')
        path, digest = self.incoming(oid, upload, part), hashlib.md5()
        temporary = path.with_name(f'{path.name}.tmp')
        try:
            with temporary.open('wb') as file:
                for data in self.body_chunks():
                    file.write(data)
                    digest.update(data)
        except ConnectionError:
            temporary.unlink()
            raise
        os.replace(temporary, path)
        if not part and not self.hub.store.adopt(path, oid):
            raise HubError(400, 'The sha256 of what arrived is not that of the object')
        self.head(200, {'ETag': f'"{digest.hexdigest()}"', 'Content-Length': 0})

    @route('POST', r'/lfs/([0-9a-f]{64})/([0-9a-f]{16})')
    def lfs_complete(self, oid, upload):
        whole = self.incoming(oid, upload)
        parts = [self.incoming(oid, upload, str(p['partNumber'])) for p in self.json()['parts']]
        with whole.open('wb') as file:
            for part in parts:
                if not part.exists():
                    raise HubError(400, f'Part {part.suffix[1:]} never arrived')
                with part.open('rb') as source:
                    shutil.copyfileobj(source, file)
        for part in parts:
            part.unlink()
        if not self.hub.store.adopt(whole, oid):
            raise HubError(400, 'The sha256 of what arrived is not that of the object')
        self.send_json({})

    @route('POST', r'(?:/(datasets|spaces))?/([^/]+/[^/]+)\.git/info/lfs/verify')
    def lfs_verify(self, kind, repo_id):
        self.repo(kind or 'models', repo_id, write=True)
        body = self.json()
        path = self.hub.store.object(body['oid'])
        if not path.exists() or path.stat().st_size != body['size']:
            raise HubError(404, f'The object {body["oid"]} of {body["size"]} bytes is not there')
        self.send_json({})

    @route('POST', API + '/commit/([^/]+)')
    def commit(self, kind, repo_id, revision):
        repo = self.repo(kind, repo_id, write=True)
        try:
            lines = [json.loads(line) for line in self.body().splitlines() if line.strip()]
            operations = [(line['key'], line['value']) for line in lines]
            header = dict(operations)['header']
        except (ValueError, KeyError, TypeError) as error:
            raise HubError(400, f'The commit is no NDJSON with a header: {error!r}') from None
        if not header.get('summary'):
            raise HubError(400, 'A commit needs a summary')
        store = self.hub.store
        with store.lock:
            repo = self.repo(kind, repo_id, write=True)
            parent = self.revision(repo, revision)
            pull_request = self.flag('create_pr')
            if not pull_request and revision not in repo['heads']:
                raise HubError(400, f'{revision} is no branch: only branches take commits')
            if header.get('parentCommit') not in (None, parent['id']):
                raise HubError(412, 'A commit has happened since. Please refresh and try again.')
            tree = self.apply(dict(parent['tree']), operations)
            _, errors, _ = front_matter(store.read(dict(tree=tree), 'README.md') or b'')
            if errors:
                raise HubError(400, 'Invalid metadata in README.md.\n- ' + '\n- '.join(errors))
            number = 1 + sum(name.startswith('refs/pr/') for name in repo['heads'])
            ref = f'refs/pr/{number}' if pull_request else revision
            sha = store.add_commit(repo, ref, parent['id'], dict(sorted(tree.items())), title=header['summary'],
                                   message=header.get('description', ''), user=self.user)
        url = self.web_url(kind, repo_id)
        answer = dict(success=True, commitOid=sha, commitUrl=f'{url}/commit/{sha}', hookOutput='')
        if pull_request:
            answer['pullRequestUrl'] = f'{url}/discussions/{number}'
        self.send_json(answer)

    def apply(self, tree: dict, operations: list[tuple[str, dict]]) -> dict:
        store = self.hub.store
        for key, value in operations:
            path = value.get('path', '')
            if key != 'header' and any(part in ('', '.', '..', '.git') for part in path.rstrip('/').split('/')):
                raise HubError(400, f'Invalid path: {path!r}')
            if key == 'file':
                encoded = value.get('encoding') == 'base64'
                data = base64.b64decode(value['content']) if encoded else value['content'].encode()
                if len(data) > MAX_REGULAR:
                    raise HubError(400, f'{path} has more than {MAX_REGULAR} bytes: it has to be an LFS file')
                tree[path] = store.entry(data)
            elif key == 'lfsFile':
                if not store.has(value['oid']):
                    raise HubError(400, f'The LFS object {value["oid"]} of {path} was not uploaded')
                tree[path] = store.lfs_entry(value['oid'])
            elif key == 'deletedFile':
                if tree.pop(path, None) is None:
                    raise HubError(404, f'{path} is not there to be deleted', 'EntryNotFound')
            elif key == 'deletedFolder':
                gone = [name for name in tree if name.startswith(path.rstrip('/') + '/')]
                if not gone:
                    raise HubError(404, f'{path} is not there to be deleted', 'EntryNotFound')
                for name in gone:
                    del tree[name]
            elif key != 'header':
                raise HubError(400, f'Unknown operation: {key}')
        return tree

    # branches and tags

    def change_refs(self, kind: str, repo_id: str, refs: str, name: str, source: str | None):
        """Makes a branch or tag (refs: 'heads', 'tags') at the revision `source`, or deletes it if that is None."""
        with self.hub.store.lock:
            repo = self.repo(kind, repo_id, write=True)
            if source is None:
                if name == 'main' and refs == 'heads':
                    raise HubError(403, 'The branch main cannot be deleted')
                if repo[refs].pop(name, None) is None:
                    raise HubError(404, f'Reference does not exist: {name}', 'RevisionNotFound')
            else:
                sha = self.revision(repo, source)['id']
                if name in repo[refs]:
                    raise HubError(409, f'Reference already exists: {name}')
                repo[refs][name] = sha
            self.hub.store.save(repo)
        self.send_json({})

    @route('POST', API + '/branch/([^/]+)')
    def create_branch(self, kind, repo_id, name):
        self.change_refs(kind, repo_id, 'heads', name, self.json().get('startingPoint') or 'main')

    @route('DELETE', API + '/branch/([^/]+)')
    def delete_branch(self, kind, repo_id, name):
        self.change_refs(kind, repo_id, 'heads', name, None)

    @route('POST', API + '/tag/([^/]+)')
    def create_tag(self, kind, repo_id, revision):
        self.change_refs(kind, repo_id, 'tags', self.json()['tag'], revision)

    @route('DELETE', API + '/tag/([^/]+)')
    def delete_tag(self, kind, repo_id, name):
        self.change_refs(kind, repo_id, 'tags', name, None)
