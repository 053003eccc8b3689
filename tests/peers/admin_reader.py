"""Reads answers of the admin listener as others do: `metrics` on standard input with Prometheus' own parser, or `json NAME` against
docs/admin.schema.json. Prints what it found; a mistake is an exception."""
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent / "python_modules"))


def metrics(text):
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        assert family.documentation, f"{family.name} has no HELP"
        assert family.type in ("counter", "gauge", "histogram"), f"{family.name} is {family.type}"
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            print(f"{sample.name}{{{labels}}} {sample.value:g}")


def against_schema(name, text):
    import fastjsonschema

    schema = json.loads((pathlib.Path(__file__).parents[2] / "docs/admin.schema.json").read_text())
    assert name in schema["definitions"], f"the schema has no {name}"
    schema["$ref"] = f"#/definitions/{name}"
    fastjsonschema.compile(schema)(json.loads(text))
    print("right")


if sys.argv[1] == "metrics":
    metrics(sys.stdin.read())
else:
    against_schema(sys.argv[2], sys.stdin.read())
