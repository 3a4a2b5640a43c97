"""Print the JSON schema of a policy as it ships.

python -m tools.schema > policy/policy.schema.json
"""

import json

from devpolicy._core.language.schema import policy_schema

if __name__ == "__main__":
    print(json.dumps(policy_schema(), indent=2))
