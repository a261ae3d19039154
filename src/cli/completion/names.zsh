
# Names of VMs, restore points and sessions, as the repository has them.
_restorefs_names() {
    local -a names
    names=(${(f)"$(_call_program names ${(q)words[1]} complete-names ${(q)PREFIX} -- ${(q)words[2,CURRENT]} 2>/dev/null)"})
    compadd -a names
}
