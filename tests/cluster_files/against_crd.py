"""Check a file for Kubernetes against the schema that its operator publishes.

    python tests/cluster_files/against_crd.py CRD.yaml FILE.yaml

CRD.yaml is a CustomResourceDefinition, FILE.yaml an object of its kind. A field that the schema does not know is an
error, as with `kubectl create`, where Kubernetes would otherwise drop it. Exit status 0: the object is as it must be.
"""

import sys
from pathlib import Path
from typing import Any

import jsonschema
import yaml


def strict(schema: Any) -> Any:
    """The schema with unknown fields refused, in JSON Schema's words."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    if made.get("x-kubernetes-int-or-string") is True:
        made["type"] = ["integer", "string"]
    if "properties" in made and "additionalProperties" not in made:
        made["additionalProperties"] = bool(made.get("x-kubernetes-preserve-unknown-fields"))
    return made


def complaints(definition: dict[str, Any], resource: dict[str, Any]) -> list[str]:
    """What is wrong with the object."""
    group, _, version = resource["apiVersion"].partition("/")
    if (group, resource["kind"]) != (definition["spec"]["group"], definition["spec"]["names"]["kind"]):
        return [f"{resource['apiVersion']} {resource['kind']} is not what the definition is of"]
    schemas = {each["name"]: each["schema"]["openAPIV3Schema"] for each in definition["spec"]["versions"]}
    if version not in schemas:
        return [f"the definition has no version {version}"]
    schema = strict(schemas[version])
    schema["properties"]["metadata"] = {"type": "object"}  # Kubernetes' own
    errors = jsonschema.Draft202012Validator(schema).iter_errors(resource)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message}" for error in errors]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    definition, resource = (yaml.safe_load(Path(file).read_text()) for file in sys.argv[1:])
    said = complaints(definition, resource)
    print("\n".join(said) or f"as {definition['metadata']['name']} says")
    sys.exit(bool(said))
