"""What the Hub of server.py answers to those who look: repositories, trees, histories and files."""
import json
import time
from urllib.parse import parse_qs, quote, urlsplit

from .handler import API, Handler, HubError, route
from .store import blob_id, front_matter


class Reading(Handler):
    """The endpoints that change nothing."""

    @route('GET', '/api/whoami-v2')
    def whoami(self):
        if self.user is None:
            raise HubError(401, 'Invalid username or password.')
        orgs = [dict(type='org', name=name, fullname=name, roleInOrg='write') for name in self.hub.orgs]
        access = dict(displayName='test', role=self.role)
        self.send_json(dict(type='user', id=blob_id(self.user.encode())[:24], name=self.user, fullname=self.user,
                            isPro=False, orgs=orgs, auth=dict(type='access_token', accessToken=access)))

    # repositories

    @route('GET', r'/api/(models|datasets|spaces)')
    def list_repos(self, kind):
        repos = [r for r in self.hub.store.repos(kind) if not r['private'] or self.may(r['id'])]
        repos = [r for r in repos if r['id'].startswith(f'{self.query["author"]}/' if 'author' in self.query else '')
                 and self.query.get('search', '').lower() in r['id'].lower()]
        repos = repos[:int(self.query.get('limit', 1000))]
        self.send_json([self.info(r, self.revision(r, 'main')) for r in repos])

    def info(self, repo: dict, commit: dict, blobs: bool = False) -> dict:
        card = front_matter(self.hub.store.read(commit, 'README.md') or b'')[0]
        siblings = [dict(rfilename=path) for path in commit['tree']]
        if blobs:
            for sibling, entry in zip(siblings, commit['tree'].values()):
                sibling.update(size=entry['size'], blobId=entry['oid'])
                if entry['lfs']:
                    lfs = entry['lfs']
                    sibling['lfs'] = dict(sha256=lfs['oid'], size=lfs['size'], pointerSize=lfs['pointerSize'])
        tags = card.get('tags') or []
        return {
            '_id': blob_id(repo['id'].encode())[:24], 'id': repo['id'], 'modelId': repo['id'], 'sha': commit['id'],
            'author': repo['id'].split('/')[0], 'private': repo['private'], 'gated': False, 'disabled': False,
            'downloads': 0, 'likes': 0, 'createdAt': repo['created'], 'lastModified': commit['date'],
            'tags': [tags] if isinstance(tags, str) else tags, 'siblings': siblings,
            **({'cardData': card} if card else {}),
            **{key: card[key] for key in ('pipeline_tag', 'library_name', 'model-index') if key in card},
        }

    @route('GET', API + '(?:/revision/([^/]+))?')
    def repo_info(self, kind, repo_id, revision):
        repo = self.repo(kind, repo_id)
        self.send_json(self.info(repo, self.revision(repo, revision), self.flag('blobs')))

    @staticmethod
    def items(tree: dict, top: str, recursive: bool) -> list[dict]:
        """The files and folders below a folder, as the tree endpoint lists them."""
        items = {}
        for path, entry in sorted(tree.items()):
            if not path.startswith(f'{top}/' if top else ''):
                continue
            parts = path[len(top) + 1 if top else 0:].split('/')
            folders = ['/'.join(filter(None, [top, *parts[:n]])) for n in range(1, len(parts))]
            for folder in folders if recursive else folders[:1]:
                items.setdefault(folder, dict(type='directory', oid=blob_id(folder.encode()), size=0, path=folder))
            if recursive or len(parts) == 1:
                extra = {key: entry[key] for key in ('lfs', 'xetHash') if entry.get(key)}
                items[path] = dict(type='file', oid=entry['oid'], size=entry['size'], path=path, **extra)
        return list(items.values())

    def expanded(self, repo: dict, commit: dict, items: list[dict], expand: bool) -> list[dict]:
        if not expand:
            return items
        def content(commit, path):
            return [v for k, v in commit['tree'].items() if f'{k}/'.startswith(f'{path}/')]

        history = self.history(repo, commit)
        steps = list(zip(history, [*history[1:], dict(tree={})]))
        for item in items:
            last = next(new for new, old in steps if content(new, item['path']) != content(old, item['path']))
            item['lastCommit'] = dict(id=last['id'], title=last['title'], date=last['date'])
        return items

    def paged(self, items: list):
        """Sends a part of a list, with the address of the next one in the Link header."""
        size, start = int(self.query.get('limit', self.hub.page_size)), int(self.query.get('cursor', 0))
        headers = {}
        if start + size < len(items):
            rest = '&'.join(f'{k}={quote(v)}' for k, v in self.query.items() if k != 'cursor')
            address = f'{self.hub.url}{urlsplit(self.path).path}?{rest}&cursor={start + size}'
            headers['Link'] = f'<{address}>; rel="next"'
        self.send_json(items[start:start + size], headers=headers)

    @route('GET', API + '/tree/([^/]+)(?:/(.*))?')
    def tree(self, kind, repo_id, revision, top):
        repo = self.repo(kind, repo_id)
        commit = self.revision(repo, revision)
        items = self.items(commit['tree'], (top or '').strip('/'), self.flag('recursive'))
        if not items and top:
            headers = {'X-Repo-Commit': commit['id']}
            raise HubError(404, f'{top} does not exist on "{revision}"', 'EntryNotFound', headers)
        self.paged(self.expanded(repo, commit, items, self.flag('expand')))

    @route('POST', API + '/paths-info/([^/]+)')
    def paths_info(self, kind, repo_id, revision):
        repo = self.repo(kind, repo_id)
        commit, data = self.revision(repo, revision), self.body()
        if 'json' in self.headers.get('Content-Type', ''):
            form = json.loads(data)
            paths, expand = form['paths'], bool(form.get('expand'))
        else:
            form = parse_qs(data.decode())
            paths, expand = form.get('paths', []), form.get('expand', [''])[0].lower() in ('1', 'true')
        items = {item['path']: item for item in self.items(commit['tree'], '', True)}
        self.send_json(self.expanded(repo, commit, [items[path] for path in paths if path in items], expand))

    def history(self, repo: dict, commit: dict | None) -> list[dict]:
        commits = []
        while commit is not None:
            commits.append(commit)
            commit = self.hub.store.commit(repo, commit['parent']) if commit['parent'] else None
        return commits

    @route('GET', API + '/commits/([^/]+)')
    def commits(self, kind, repo_id, revision):
        repo = self.repo(kind, repo_id)
        history = self.history(repo, self.revision(repo, revision))
        self.paged([dict(id=c['id'], title=c['title'], message=c['message'], date=c['date'],
                         authors=[dict(user=c['user'])]) for c in history])

    @route('GET', API + '/refs')
    def refs(self, kind, repo_id):
        repo = self.repo(kind, repo_id)
        refs = dict(branches=[], tags=[], converts=[], pullRequests=[])
        for name, sha in repo['heads'].items():
            pull_request = name.startswith('refs/pr/')
            ref = dict(name=name[len('refs/pr/'):] if pull_request else name,
                       ref=name if pull_request else f'refs/heads/{name}', targetCommit=sha)
            refs['pullRequests' if pull_request else 'branches'].append(ref)
        refs['tags'] = [dict(name=n, ref=f'refs/tags/{n}', targetCommit=sha) for n, sha in repo['tags'].items()]
        self.send_json(refs)

    # files

    @route('GET', r'(?:/(datasets|spaces))?/([^/]+(?:/[^/]+)?)/resolve/([^/]+)/(.+)')
    def resolve(self, kind, repo_id, revision, path):
        repo = self.repo(kind or 'models', repo_id)
        commit = self.revision(repo, revision)
        headers = {'X-Repo-Commit': commit['id']}
        entry = commit['tree'].get(path)
        if entry is None:
            raise HubError(404, 'Entry not found', 'EntryNotFound', headers)
        name = path.split('/')[-1]
        etag = f'"{entry["sha256"] if entry["lfs"] else entry["oid"]}"'
        headers |= {'ETag': etag, 'X-Linked-Etag': etag, 'X-Linked-Size': entry['size'],
                    'Content-Disposition': f'inline; filename*=UTF-8\'\'{quote(name)}; filename="{name}";'}
        if self.fault.etag is not None:
            headers |= {'ETag': f'"{self.fault.etag}"', 'X-Linked-Etag': f'"{self.fault.etag}"'}
        location = None
        if entry['lfs']:
            if entry.get('xetHash'):
                token_url = f'{self.hub.url}/api/{repo["kind"]}/{repo["id"]}/xet-read-token/{commit["id"]}'
                headers |= {'X-Xet-Hash': entry['xetHash'], 'Link': f'<{token_url}>; rel="xet-auth"'}
            signature = self.hub.sign(entry['sha256'])
            location = f'{self.hub.cdn_url}/cdn/{entry["sha256"]}/{quote(name)}?Signature={signature}'
        elif '/resolve/' in self.path:
            location = f'/api/resolve-cache/{repo["kind"]}/{repo["id"]}/{commit["id"]}/{quote(path)}'
        if location and self.hub.redirect:
            self.head(302 if entry['lfs'] else 307, {**headers, 'Location': location, 'Content-Length': 0})
        else:
            self.send_file(self.hub.store.object(entry['sha256']), headers)

    @route('GET', r'/api/resolve-cache/(models|datasets|spaces)/([^/]+(?:/[^/]+)?)/([0-9a-f]{40})/(.+)')
    def resolve_cache(self, kind, repo_id, revision, path):
        self.resolve(kind, repo_id, revision, path)

    @route('GET', r'/cdn/([0-9a-f]{64})/([^/]+)')
    def cdn(self, sha256, name):
        if self.query.get('Signature') != self.hub.sign(sha256):
            raise HubError(403, 'SignatureDoesNotMatch')
        self.send_file(self.hub.store.object(sha256), {'ETag': f'"{sha256[:32]}"'})

    @route('GET', API + '/xet-(read|write)-token/([^/]+)')
    def xet_token(self, kind, repo_id, access, revision):
        self.repo(kind, repo_id, write=access == 'write')
        if not self.hub.xet:
            raise HubError(404, 'This Hub has no Xet storage')
        storage, fault = self.hub.store.xet, self.fault
        with self.hub.store.lock:
            if access == 'write':
                folder = storage.folder_to_write()
            else:
                folder = storage.folder_to_read(fault.flip, fault.truncate)
        url, expires = f'local://{folder}', int(time.time()) + 3600
        headers = {'X-Xet-Cas-Url': url, 'X-Xet-Access-Token': 'xet', 'X-Xet-Token-Expiration': expires}
        self.send_json(dict(casUrl=url, accessToken='xet', exp=expires), headers=headers)
