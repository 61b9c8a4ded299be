"""Completion scripts for bash, zsh and fish: completion/*.in, with what completions.py knows for each @word@."""

import re
from collections.abc import Iterator
from pathlib import Path

from completions import GROUPS, LISTS, MAYBE, NO, Node, Option, Program, programs

TEMPLATES = Path(__file__).parent / "completion"
_SERVICES = {"-t": "-t", "-u": "-u", "-f": "-f", "--sctp-service": "--sctp-service"}


def scripts() -> dict[str, str]:
    """All scripts: where they go below share/, and their content."""
    found = {}
    for program in programs():
        found[f"bash-completion/completions/{program.name}"] = _fill(program, "bash", _bash(program))
        found[f"zsh/site-functions/_{program.name}"] = _fill(program, "zsh", _zsh(program))
        found[f"fish/vendor_completions.d/{program.name}.fish"] = _fill(program, "fish", _fish(program))
    return found


def _fill(program: Program, shell: str, parts: dict[str, str]) -> str:
    template = (TEMPLATES / f"{shell}.in").read_text(encoding="utf-8")
    parts |= {"program": program.name, "name": program.name.replace("-", "_")}
    return re.sub(r"@(\w+)@", lambda match: parts[match[1]], template)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _name(option: Option) -> str:
    return option.spellings[-1].lstrip("-")


def _group(option: Option) -> str:
    """The spelling of a service option in what `ipvsadm -S` prints."""
    return next((_SERVICES[spelling] for spelling in option.spellings if spelling in _SERVICES), "")


def _begun(option: Option) -> list[str]:
    """Patterns of words that have this option first."""
    return [spelling if spelling.startswith("--") else f"{spelling}*" for spelling in option.spellings]


def _commands(program: Program) -> dict[str, str]:
    """The options that say what to do, and the node that each leads to."""
    if not program.by_option:
        return {}
    return {spelling: _name(option) for option in program.nodes[0].options for spelling in option.spellings}


# ---- bash -----------------------------------------------------------------------------------------------------------


def _bash(program: Program) -> dict[str, str]:
    return {
        "nodes": "\n".join(_bash_node(node) for node in program.nodes),
        "options": "\n".join(_bash_options(program)),
        "lists": "\n".join(
            f"    {kind}) candidates=({' '.join(words)}) ;;" for kind, words in LISTS.items() if kind != "flags"
        ),
        "flags": " ".join(LISTS["flags"]),
        "by_option": str(int(program.by_option)),
    }


def _bash_node(node: Node) -> str:
    options = " ".join(spelling for option in node.options for spelling in option.spellings)
    below = " ".join(word for word, _ in node.below)
    return f'    "{node.name}") below=({below}) options=({options}) words_kind={_quoted(node.words)} ;;'


def _bash_options(program: Program) -> Iterator[str]:
    commands, seen = _commands(program), set()
    for node in program.nodes:
        for option in node.options:
            where = "*" if program.by_option else f'"{node.name}"'
            patterns = " | ".join(f'{where}" {spelling}"' for spelling in option.spellings)
            command = commands.get(option.spellings[-1], "")
            line = f'    {patterns}) takes={option.takes} kind={_quoted(option.kind)} command="{command}" ;;'
            if line not in seen:
                seen.add(line)
                yield line


# ---- zsh ------------------------------------------------------------------------------------------------------------


def _zsh(program: Program) -> dict[str, str]:
    name = program.name.replace("-", "_")
    if program.by_option:
        steps = [
            f"        ('|'({'|'.join(_begun(option))})) step={_name(option)} ;;" for option in program.nodes[0].options
        ]
    else:
        steps = [
            f"        ({_quoted(f'{node.name}|{word}')}) step={_quoted(f'{node.name} {word}'.strip())} ;;"
            for node in program.nodes
            for word, _ in node.below
            if any(other.name == f"{node.name} {word}".strip() for other in program.nodes)
        ]
    return {
        "steps": "\n".join(steps) or "        (*) ;;",
        "shift": ":" if program.by_option else "shift words; (( CURRENT-- ))",
        "nodes": "\n".join(_zsh_node(program, node, name) for node in program.nodes),
    }


def _zsh_node(program: Program, node: Node, name: str) -> str:
    own = [option for option in program.nodes[0].options if program.by_option and _name(option) == node.name]
    specs = [spec for option in (*own, *node.options) for spec in _zsh_option(option, name, program)]
    lines = [f"    ({_quoted(node.name)})"]
    offers = []
    if node.below:
        described = " ".join(_quoted(f"{word}:{text}") for word, text in node.below)
        lines.append(f"        below=({described})")
        offers.append("_describe -t commands command below")
    if node.words:
        offers.append(_zsh_words(node.words, name))
    if offers:
        specs.append(_quoted(f"{'*' if node.words else '1'}:word:{{{'; '.join(offers)}}}"))
    lines.append("        specs=(")
    lines += [f"            {spec}" for spec in specs]
    lines += ["        )", "        ;;"]
    return "\n".join(lines)


def _zsh_words(kind: str, name: str) -> str:
    """What offers the words of a kind, as a command."""
    action = _zsh_action(kind, name, "")
    return f"compadd - {action[1:-1]}" if action.startswith("(") else action.strip("{}")


def _zsh_option(option: Option, name: str, program: Program) -> Iterator[str]:
    others = next((group for group in GROUPS.values() if program.by_option and _name(option) in group), ())
    excluded = list(option.spellings)
    for other in program.nodes[0].options if not others else _every(program):
        if _name(other) in others and _name(other) != "ipv6" and _name(option) != "ipv6":
            excluded += other.spellings
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.text)
    for spelling in option.spellings:
        spec = f"({' '.join(dict.fromkeys(excluded))}){spelling}"
        if option.takes != NO:
            spec += "=" if spelling.startswith("--") else "+"
        spec += f"[{text}]"
        if option.takes != NO:
            spec += "::" if option.takes == MAYBE else ":"
            spec += f"{_name(option)}:{_zsh_action(option.kind, name, _group(option))}"
        yield _quoted(spec)


def _every(program: Program) -> Iterator[Option]:
    for node in program.nodes:
        yield from node.options


def _zsh_action(kind: str, name: str, service: str) -> str:
    if kind.startswith("="):
        return f"({kind[1:]})"
    if kind == "flags":
        return f"_sequence compadd - {' '.join(LISTS['flags'])}"
    if kind in ("timeout", "state"):
        return f'{{compadd -S "" - {" ".join(LISTS[kind])}}}'
    if kind in LISTS:
        return f"({' '.join(LISTS[kind])})"
    return {
        "service": f"_{name}_services {service}",
        "server": f"_{name}_servers",
        "endpoint": f"_{name}_endpoints",
        "rip": f"_{name}_rips",
        "interface": f"_{name}_interfaces",
        "file": "_files",
        "directory": "_files -/",
    }.get(kind, " ")


# ---- fish -----------------------------------------------------------------------------------------------------------


def _fish(program: Program) -> dict[str, str]:
    name = program.name.replace("-", "_")
    steps = []
    if program.by_option:
        for option in program.nodes[0].options:
            patterns = " ".join(_quoted(f"|{word}") for word in _begun(option))
            steps.append(f"            case {patterns}\n                set node {_name(option)}")
    else:
        for node in program.nodes:
            for word, _ in node.below:
                after = f"{node.name} {word}".strip()
                if any(other.name == after for other in program.nodes):
                    steps.append(
                        f"            case {_quoted(f'{node.name}|{word}')}\n                set node {_quoted(after)}"
                    )
    return {
        "steps": "\n".join(steps) or "            case '*'\n                continue",
        "lines": "\n".join(_fish_lines(program, name)),
    }


def _fish_lines(program: Program, name: str) -> Iterator[str]:
    places: dict[Option, list[str]] = {}
    for node in program.nodes:
        for option in node.options:
            places.setdefault(option, []).append(node.name)
            if program.by_option and not node.name and option.takes != NO:
                places[option].append(_name(option))  # its argument is typed when the command is known
    for option, nodes in places.items():
        words = [f"complete -c {program.name} -n {_fish_quoted(_fish_at(name, nodes))}"]
        for spelling in option.spellings:
            words.append(f"-l {spelling[2:]}" if spelling.startswith("--") else f"-s {spelling[1:]}")
        if option.takes != NO:
            words.append(_fish_values(option.kind, name, _group(option), "-x" if option.takes != MAYBE else ""))
        words.append(f"-d {_fish_quoted(option.text)}")
        yield " ".join(word for word in words if word)
    for node in program.nodes:
        at = _fish_quoted(_fish_at(name, [node.name]))
        for word, text in node.below:
            yield f"complete -c {program.name} -n {at} -a {word} -d {_fish_quoted(text)}"
        if node.words:
            yield f"complete -c {program.name} -n {at} {_fish_values(node.words, name, '', '')}"


def _fish_at(name: str, nodes: list[str]) -> str:
    return f"__{name}_at {' '.join(_quoted(node) for node in nodes)}"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _fish_values(kind: str, name: str, service: str, exclusive: str) -> str:
    if kind in ("file", "directory"):
        return "-r -F" if exclusive else "-F"
    words = kind[1:] if kind.startswith("=") else " ".join(LISTS.get(kind, ()))
    if not words and kind:
        words = {
            "service": f"(__{name}_services {service})",
            "server": f"(__{name}_servers)",
            "endpoint": f"(__{name}_endpoints)",
            "rip": f"(__{name}_rips)",
            "interface": f"(__{name}_interfaces)",
        }[kind]
    return f"{exclusive} -a {_fish_quoted(words)}".strip() if words else exclusive
