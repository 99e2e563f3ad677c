"""What docs/flow.md names exists: files, functions, flags. Usage: flow_test.py"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ["cli", "coordinator", "journal", "kernels", "logging", "model", "parallel", "security", "worker"]


def main():
    text = (ROOT / "docs" / "flow.md").read_text()
    code = "".join(p.read_text() for folder in FOLDERS for p in (ROOT / folder).rglob("*")
                   if p.suffix in (".h", ".cc"))
    missing = []
    for name in sorted(set(re.findall(r"`([^`]+)`", text))):
        if "/" in name:
            found = (ROOT / name).exists()
        elif "::" in name:  # a member: its class is there and a function of its name
            owner, member = name.split("::")
            found = re.search(rf"\bclass {owner}\b", code) and re.search(rf"\b{member}\(", code)
        elif name.startswith("--"):
            found = f'"{name[2:]}"' in code
        else:
            found = re.search(rf"\b{name}\(", code) or name == "shardline up"
        if not found:
            missing.append(name)
    if missing:
        sys.exit(f"docs/flow.md names what does not exist: {missing}")


if __name__ == "__main__":
    main()
