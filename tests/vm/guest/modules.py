"""modules.py UNPACKED TARGET MODULE...: copies kernel modules with what they depend on, and writes the order in which they are loaded."""

import glob
import os
import re
import shutil
import sys

unpacked, target, wanted = sys.argv[1], sys.argv[2], sys.argv[3:]
base = (glob.glob(unpacked + "/lib/modules/*") + glob.glob(unpacked + "/usr/lib/modules/*"))[0]
files = {}
for directory, _, names in os.walk(base):
    for name in names:
        if ".ko" in name:
            files[name.split(".ko")[0].replace("-", "_")] = os.path.join(directory, name)
built_in = open(base + "/modules.builtin").read()
order = []


def add(module):
    if module in order:
        return
    if module not in files:
        if not re.search(r"/%s\.ko" % module.replace("_", "[-_]"), built_in):
            sys.exit("the kernel has no module " + module)
        return
    found = re.search(rb"\0depends=([^\0]*)\0", open(files[module], "rb").read())
    for other in found.group(1).decode().split(",") if found else []:
        if other:
            add(other.replace("-", "_"))
    order.append(module)


for module in wanted:
    add(module)
with open(target + "/order", "w") as listed:
    for module in order:
        shutil.copy(files[module], target + "/" + module + ".ko")
        listed.write(module + ".ko\n")
