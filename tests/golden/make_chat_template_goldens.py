#!/usr/bin/env python3
"""What transformers' Jinja environment makes of chat templates and of single constructs.

    pip install transformers jinja2
    python tests/golden/make_chat_template_goldens.py    # writes chat_templates/golden.json

chat_templates/*.jinja use what the templates of the open model families use, each in the manner of
the family that it is named after. Every template renders every conversation; a failure of the
oracle's is recorded as "error". Keys of dicts are in alphabetical order, as everywhere in Shardline.
"""
import glob
import json
import os

import jinja2
import transformers
from transformers.utils.chat_template_utils import _compile_jinja_template

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "chat_templates")


def turn(role, content, **more):
    return dict(sorted({"role": role, "content": content, **more}.items()))


TOOLS = [{"function": {"description": "The weather \"now\" <in> a place & time",
                       "name": "weather", "parameters": {"properties": {"n": {"type": "integer"}, "place": {"type": "string"}},
                                                         "required": ["place"], "type": "object"}}, "type": "function"}]
CALL = [{"function": {"arguments": {"n": 3, "place": "Zürich", "when": [1.5, None, True]}, "name": "weather"}, "id": "abcdefghi",
         "type": "function"}]
CONVERSATIONS = {
    "user": {"messages": [turn("user", "Hello!")]},
    "system": {"messages": [turn("system", "Be brief. "), turn("user", " Hi\n")]},
    "turns": {"messages": [turn("user", "One?"), turn("assistant", "Two. "), turn("user", "Three?\n\n"),
                           turn("assistant", "\n Four."), turn("user", "")]},
    "system turns": {"messages": [turn("system", "Sí: 你好 👨‍👩‍👧"), turn("user", "a\u00a0"), turn("assistant", "b"),
                                  turn("user", "\u3000c\tд")]},
    "ends with the assistant": {"messages": [turn("user", "Go on"), turn("assistant", "and on")],
                                "add_generation_prompt": False},
    "not in turns": {"messages": [turn("user", "a"), turn("user", "b")]},
    "begins with the assistant": {"messages": [turn("assistant", "a"), turn("user", "b")]},
    "markup": {"messages": [turn("user", "{{ 1 }} {% if x %} <|im_end|> [/INST] \\n 'q' \"r\" {# c #}")]},
    "thinking": {"messages": [turn("user", "a"), turn("assistant", "<think>\nhm\n</think>\n\nb"), turn("user", "c"),
                              turn("assistant", "<think>\nhm hm\n</think>\n\nd")], "add_generation_prompt": False},
    "reasoning": {"messages": [turn("user", "a"), turn("assistant", "b", reasoning_content="\nwhy\n")]},
    "no thinking": {"messages": [turn("user", "a")], "enable_thinking": False},
    "parts": {"messages": [turn("system", [{"text": "Sys", "type": "text"}]),
                           turn("user", [{"type": "image"}, {"text": " What? ", "type": "text"}])]},
    "no content": {"messages": [turn("user", None)]},
    "a number as content": {"messages": [turn("user", 5)]},
    "other role": {"messages": [turn("critic", "no")]},
    "no messages": {"messages": []},
    "tools": {"messages": [turn("user", "Weather?")], "tools": TOOLS},
    "tool call": {"messages": [turn("user", "Weather?"), dict(sorted({"role": "assistant", "tool_calls": CALL}.items())),
                               turn("tool", "{\"t\": 20}"), turn("tool", "rain"), turn("assistant", "Wet."), turn("user", "Ok")],
                  "tools": TOOLS},
}

DATA = {"n": 7, "neg": -3, "f": 2.5, "big": 10**15, "s": "Hello, Wörld", "e": "", "sp": " \t a b \n", "t": True, "no": False, "nul": None,
        "l": [3, 1, 2], "el": [], "names": ["b", "A", "c"], "d": {"a": 1, "b": [1, {"c": None}]},
        "people": [{"age": 3, "name": "x"}, {"age": 1, "name": "y"}, {"name": "z"}], "q": "it's \"q\"\n\\"}
EXPRESSIONS = """
n + 2 | n - 2.5 | n * neg | n / 2 | n // 2 | neg // 2 | n % 3 | neg % 3 | n ** 2 | -n | +n | 2 + 3 * 4 | (2 + 3) * 4 | f * 2 | 10 / 5 | 1e3 | 7.0 | 0.1 + 0.2 | 1 / 3
s + '!' | s ~ n | s ~ nul ~ t | 'a' * 3 | 'a' 'b' | "x\\ty" | 'it\\'s' | s == 'Hello, Wörld' | s != e | 'ell' in s | 'z' not in s | n in l | 1 in l | 'a' in d
n > 3 | n >= 7 | 3 < n | n <= 6 | n == 7.0 | 'a' < 'b' | t and no | t or no | not t | nul or 'x' | e or 'y' | l and 'z' | n if t else s | n if no | n if no else 'w' | (n if no) is defined
s[0] | s[-1] | s[1:3] | s[::-1] | s[:2] | s[-3:] | l[0] | l[-1] | l[1:] | l[::-1] | l[::2] | l[5:] | d['a'] | d.a | d.b[1].c | d['x'] is defined | d.x is defined | nosuch is defined | l[9] is defined
s|upper | s|lower | s|title | s|capitalize | sp|trim | s|length | l|length | d|length | l|join | l|join(', ') | names|join('-') | s|replace('l', 'L') | s|replace('l', 'L', 1) | e|default('x') | e|default('x', true) | nosuch|default(5) | nosuch|default
l|first | l|last | el|first is defined | s|first | l|list | s|list | l|sort | l|sort(reverse=true) | names|sort | l|reverse|list | s|reverse | d|items|list | d|dictsort | [1,1,2]|unique|list | l|string | d|string | people|map(attribute='name')|list | names|map('upper')|list | names|map('upper')|join(',')
people|selectattr('age', 'defined')|map(attribute='name')|list | people|selectattr('age', 'gt', 2)|list|length | people|rejectattr('age')|list|length | people|selectattr('name', 'equalto', 'y')|first | people|selectattr('name', 'in', ['x', 'z'])|list|length | l|select('odd')|list | l|reject('odd')|list | l|select|list
d|tojson | l|tojson | s|tojson | q|tojson | nul|tojson | t|tojson | f|tojson | d|tojson(indent=2) | el|tojson | '<a & b>'|tojson | '你好 😀'|tojson | {'a': {}}|tojson(indent=4) | [[], [1]]|tojson(indent=2) | 1e20|tojson | 1.0|tojson
'12'|int | '1.9'|int | 'x'|int | 'x'|int(5) | 3.7|int | -3.7|int | t|int | '2.5'|float | 'x'|float | n|float | neg|abs | 'a\\nb'|indent | 'a\\n\\nb'|indent(2, true) | n|string + 's' | s|safe
n is defined | n is number | n is string | n is integer | f is float | f is integer | t is boolean | n is boolean | t is number | t is integer | l is iterable | s is iterable | n is iterable | d is mapping | l is mapping | l is sequence | d is sequence | s is sequence | nul is none | nul is not none | n is not none | t is true | no is false | n is true | n is odd | n is even | n is divisibleby(7) | s is lower | 'abc' is lower | 'ABC' is upper | n is eq(7) | n is ne 7 | n is equalto 7 | 2 is in [1, 2] | nosuch is undefined
sp.strip() | sp.lstrip() | sp.rstrip() | 'xxaxx'.strip('x') | s.upper() | s.lower() | s.title() | s.capitalize() | s.split(', ') | ' a  b '.split() | 'a,b,c'.split(',', 1) | 'a,b,c'.split(',')[-1] | s.startswith('He') | s.endswith('x') | s.startswith(('He', 'x')) | s.replace('l', '') | s.find('W') | s.find('zz') | s.count('l') | 'a\\nb\\r\\nc'.splitlines() | '-'.join(names) | d.get('a') | d.get('x') | d.get('x', 4) | d.items()|list | d.keys()|list | d.values()|list
range(3)|list | range(1, 7, 2)|list | range(5, 0, -2)|list | dict(a=1, b=2) | {'x': n, 'y': [s]} | [n, s, nul, t] | (1, 2) | [] | {} | l + [4] | l == [3, 1, 2] | [1] < [2] | d == {'a': 1} | namespace(a=2).a | n|string|length | ('a' ~ 'b')|upper | not n is none | not (n in l) | -2 ** 2 | 2 ** 3 ** 2 | 1 if 2 if 0 else 3 else 4 | s|replace('H','J')|lower|length | n % 2 == 1 and s|length > 3
f | big | 1e16 | 1e-5 | 123456789.125 | nul | t | l | d | q | [q] | ['a', "it's"] | none | true | True | False | None | 3 == 3.0 | '' == nul | 'é'|length | '👨‍👩‍👧'|length | '👍🏽'[0] | 'ß'|upper | 'İ'|lower|length | 'ΑΣ'|lower
1 + 'a' | s + n | n.x.y | nosuch.x | nosuch.x.y | nosuch['a'] | l.x is defined | s.nosuch() | nosuch() | n() | l < s | n|nosuch | n is nosuch | 1 / 0 | 1 % 0 | 1 // 0 | range(3)[1] | raise_exception('stop ' ~ n) | {[]: 1} | d.a.b.c | [1, 2
"""
BLOCKS = [
    "{% for x in l %}{{ loop.index }}:{{ x }}{{ ', ' if not loop.last }}{% endfor %}",
    "{% for x in el %}x{% else %}none{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index0 }}{{ x }}/{{ loop.length }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for a in l %}{% for b in names %}{{ a }}{{ b }}{{ loop.revindex }}{% endfor %}{{ loop.revindex0 }}{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{% endfor %}", "{% for c in 'añb' %}[{{ c }}]{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for x in nosuch %}a{% else %}b{% endfor %}", "{% for x in n %}a{% endfor %}",
    "{% set a = 1 %}{% for x in l %}{% set a = x %}{% endfor %}{{ a }}", "{% set ns = namespace(a=1) %}{% for x in l %}{% set ns.a = ns.a + x %}{% endfor %}{{ ns.a }}",
    "{% set a, b = [1, 2] %}{{ a }}{{ b }}", "{% set x %}a{{ n }}b{% endset %}{{ x|upper }}", "{% if n > 9 %}a{% elif n > 5 %}b{% else %}c{% endif %}",
    "{% if nosuch %}a{% endif %}-", "{% macro m(a, b='B') %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 2) }}{{ m(b=3, a=4) }}",
    "{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(5) }}",
    "a\n{% if t %}\nb\n{% endif %}\nc\n", "a\n  {% if t %}\n  b\n  {% endif %}\nc\n\n", "a {%- if t %} b {%- endif %} c", "a {% if t -%} b {% endif -%} c", "a\n\n  {{- n -}}  \n\nb",
    "{# a comment #}x{#- b -#} y", "  {# a #}\nx", "{% raw %}{{ x }}{% if %}{% endraw %}", "{%+ if t %} x{%+ endif %}", "  {%+ if t %}x{% endif %}", "a\n", "a\n\n", "\n", "", "{{ '{{' }}", "{{ n }}\n{{ n }}",
    "a\r\n{% if t %}\r\nb{% endif %}", "{% if t %}a{% endif %}\n{% if t %}b{% endif %}\n", "{% set x = 5 -%}\n  \n{{ x }}", "{% if n is defined and n %}{{- '\n' }}{% endif %}",
    "{% for m in people %}{{ m.name }}{% if not loop.last %}{% set y = people[loop.index0 + 1].name %}{{ y }}{% endif %}{% endfor %}",
    "{% for x in [1,2] %}{% for y in [1] %}{{ loop.first }}{% endfor %}{{ loop.last }}{% endfor %}", "{% set l = l[1:] %}{{ l }}", "{% set n = n + 1 %}{{ n }}",
    "{% if t %}{% set z = 3 %}{% endif %}{{ z }}", "{{ n", "{% if t %}", "{% endif %}", "{% nosuch %}", "{{ }}", "{% for %}{% endfor %}", "{% set %}", "{{ 'a }}", "{{ a b }}", "{% if t %}{% endfor %}",
    "{% generation %}x{% endgeneration %}", "{{ n }", "}} %}", "{{ n }}}", "{%- set x = {'a': 1} -%}{{ x.a }}", "{{ {'a': {'b': 2}}['a']['b'] }}", "{{ 'a' if t else 'b' ~ 'c' }}", "{{ (('a')) }}", "{{ l | join ( '-' ) }}",
    "{{ m() }}", "{% filter upper %}abc{% endfilter %}", "{% with a = 2 %}{{ a }}{% endwith %}", "{{ caller is defined }}", "{% call n() %}{% endcall %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}",
    "{{ ''.__class__ }}", "{{ ''.__class__.__mro__ }}", "{{ l.append(4) }}", "{{ d.update({'z': 1}) }}", "{{ '%s' % n }}", "{{ '{}'.format(n) }}", "{{ 'a' 'b' 'c' }}",
]


def render(template, context):
    try:
        return {"text": _compile_jinja_template(template).render(**context)}
    except Exception as error:  # whatever Python raises: the template cannot be rendered
        return {"error": str(error)[:200] if isinstance(error, jinja2.TemplateError) else type(error).__name__}


def main():
    templates = {}
    for path in sorted(glob.glob(os.path.join(OUT, "*.jinja"))):
        with open(path, encoding="utf-8") as file:
            source = file.read()
        templates[os.path.basename(path)[:-6]] = {
            name: render(source, {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>",
                                  "date_string": "26 Jul 2024", **conversation})
            for name, conversation in CONVERSATIONS.items()}
    sources = ["{{ " + one.strip() + " }}" for one in EXPRESSIONS.replace("\n", " | ").split(" | ") if one.strip()] + BLOCKS
    golden = {"by": f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}",
              "conversations": CONVERSATIONS, "templates": templates, "data": DATA,
              "constructs": [{"source": source, **render(source, DATA)} for source in sources]}
    with open(os.path.join(OUT, "golden.json"), "w", encoding="utf-8") as file:
        json.dump(golden, file, ensure_ascii=False, indent=1)
    for name, results in templates.items():
        print(name, sum("text" in r for r in results.values()), "texts", sum("error" in r for r in results.values()), "errors")
    print(len(sources), "constructs,", sum("error" in c for c in golden["constructs"]), "errors")


if __name__ == "__main__":
    main()
