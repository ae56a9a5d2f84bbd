"""Writes what the binary is made of, from cargo's own account of it, as a CycloneDX bill of materials.

    cargo metadata --format-version 1 >METADATA; python3 sbom.py METADATA BILL
"""

import json
import sys

metadata = json.load(open(sys.argv[1]))
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}


def purl(package):
    return f"pkg:cargo/{package['name']}@{package['version']}"


def uses(node):
    """What gets into the binary: no macros' and build scripts' own needs, and none of the tests'."""
    return [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]


root = metadata["resolve"]["root"]
found, todo = set(), [root]
while todo:
    for other in uses(nodes[todo.pop()]):
        if other not in found:
            found.add(other)
            todo.append(other)


def component(package):
    return {
        "type": "library",
        "bom-ref": purl(package),
        "name": package["name"],
        "version": package["version"],
        "purl": purl(package),
        "licenses": [{"expression": (package["license"] or "NOASSERTION").replace("/", " OR ")}],
    }


parts = sorted((packages[one] for one in found), key=lambda package: (package["name"], package["version"]))
bill = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.5",
    "version": 1,
    "metadata": {"component": {**component(packages[root]), "type": "application"}},
    "components": [component(package) for package in parts],
    "dependencies": [
        {"ref": purl(packages[one]), "dependsOn": sorted({purl(packages[other]) for other in uses(nodes[one])})}
        for one in [root, *sorted(found)]
    ],
}
names = {part["name"] for part in bill["components"]}
assert {"sled", "hyper", "tokio", "bincode"} <= names, names
assert "proptest" not in names, "the tests' own needs are none of the binary's"
json.dump(bill, open(sys.argv[2], "w"), indent=1)
print(f"{len(parts)} components in {sys.argv[2]}")
