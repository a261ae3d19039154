
# Names of VMs, restore points and sessions, as the repository has them.
complete -c restorefs -n "__fish_seen_subcommand_from backup begin commit abort jobs ls info volumes restore forget tag keep map unmap" -a '(restorefs complete-names "$(commandline -ct)" -- (commandline -opc)[2..] 2>/dev/null)'
