
# Names of VMs, restore points and sessions, as the repository has them. Bash cuts words at @, : and =, so what stands before is cut off.
_restorefs_names() {
    local word="${COMP_LINE:0:COMP_POINT}" cut="" i name
    word="${word##*[[:space:]]}"
    _restorefs "$@"
    [[ $word == -* ]] && return
    for ((i = ${#word} - 1; i >= 0; i--)); do
        if [[ $COMP_WORDBREAKS == *"${word:i:1}"* ]]; then
            cut="${word:0:i+1}"
            break
        fi
    done
    while IFS= read -r name; do
        COMPREPLY+=("${name#"$cut"}")
    done < <("${COMP_WORDS[0]}" complete-names "$word" -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _restorefs_names -o bashdefault -o default restorefs
