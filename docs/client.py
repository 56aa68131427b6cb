"""Use a client that openapi-python-client generates from the service's own document; the tests run this file.

    .venv/bin/openapi-python-client generate --url http://localhost:5001/openapi.json \\
        --config docs/client.yml --meta none --output-path users_client
    PYTHONPATH=. .venv/bin/python docs/client.py http://localhost:5001

It adds seven users, lists them in pages of three, changes one and removes all of them.
"""

import sys
import uuid

from users_client import Client
from users_client.api.users import create_user, delete_user, get_user, list_users, replace_user, update_user
from users_client.models import Error, UserChanges, UserIn
from users_client.types import UNSET

client = Client(sys.argv[1])
# A name of their own: there may be other users.
name = f"ada {uuid.uuid4()}"

added = []
for number in range(7):
    payload = UserIn(username=name, email=f"{number}@{uuid.uuid4()}.test")
    added.append(create_user.sync(client=client, body=payload).data)
print(f"added {len(added)} users, the first in {added[0].created_date:%Y}")

pages = []
after = UNSET
while not pages or after is not UNSET:
    page = list_users.sync(client=client, username=name, limit=3, after=after).data
    pages.append([user.id for user in page.users])
    after = page.next_
assert [len(page) for page in pages] == [3, 3, 1]
assert sum(pages, []) == [user.id for user in added]
print(f"listed them in {len(pages)} pages")

one = added[0].id
version = get_user.sync_detailed(one, client=client).headers["ETag"]
updated = update_user.sync(one, client=client, body=UserChanges(active=False), if_match=version)
assert updated.data.active is False and updated.data.username == name
refused = replace_user.sync(one, client=client, body=UserIn(name, added[0].email), if_match=version)
assert isinstance(refused, Error) and refused.code == "version_conflict"
print(f"{updated.message} {refused.message}")

for user in added:
    print(delete_user.sync(user.id, client=client).message)
assert get_user.sync(one, client=client).message == "User does not exist"
