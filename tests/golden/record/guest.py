#!/usr/bin/python3
"""Plays cases with the original ipvsadm: guest.py CASES.json ANSWERS.json

To be run as root where nobody else uses ip_vs, a virtual machine say. Every case has a network namespace of its own.
A case is {"id", "steps"}, a step {"cmd": the words as a shell would split them, "stdin": text or nothing}; the answers
are the same cases, with each step's "rc", "stdout" and "stderr". Bytes that are not UTF-8 are lone surrogates, both
ways. "setup" are commands for sh that go before.
"""

import ctypes
import json
import os
import shlex
import sys
import tempfile
import time

HOSTS = """127.0.0.1 localhost guest
::1 localhost ip6-localhost
10.0.0.1 vip1.example.test vip1
10.0.0.2 vip2.example.test vip2
192.168.10.1 rs1.example.test rs1
192.168.10.2 a-rather-long-real-server-name-for-column-width.example.test rs2
2001:db8::80 vip6.example.test
2001:db8::a1 rs6.example.test
"""
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root"}
CLONE_NEWNET = 0x40000000
STREAMS = ((1, "stdout"), (2, "stderr"))


def play(step):
    """One command."""
    with open("stdin", "wb") as file:
        file.write(step.get("stdin", "").encode("utf-8", "surrogateescape"))
    words = shlex.split(step["cmd"])
    files = [(os.POSIX_SPAWN_OPEN, 0, "stdin", os.O_RDONLY, 0)]
    files += [(os.POSIX_SPAWN_OPEN, fd, name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600) for fd, name in STREAMS]
    child = os.posix_spawnp(words[0], words, ENVIRONMENT, file_actions=files)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    out, err = (read(name) for _, name in STREAMS)
    return {**step, "rc": code, "stdout": out, "stderr": err}


def read(name):
    with open(name, "rb") as file:
        return file.read().decode("utf-8", "surrogateescape")


def in_namespace(case):
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        if ctypes.CDLL(None).unshare(CLONE_NEWNET):
            os._exit(9)
        os.system("ip link set lo up")
        for line in case.get("setup", []):
            os.system(line)
        with os.fdopen(writer, "w") as file:
            json.dump({**case, "steps": [play(step) for step in case["steps"]]}, file)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        answer = json.load(file)
    os.waitpid(child, 0)
    return answer


def main(cases, answers):
    answers = os.path.abspath(answers)
    with open("/etc/hosts", "w") as file:
        file.write(HOSTS)
    begin = time.time()
    with open(cases) as file, tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        played = [in_namespace(case) for case in json.load(file)]
    with open(answers, "w") as file:
        json.dump(played, file, indent=1)
    steps = sum(len(case["steps"]) for case in played)
    print(f"{len(played)} cases, {steps} steps, {time.time() - begin:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:3])
