# What a session over SSH lacks: the container's variables. They are read from its first process, which only root can
# do, so that no file holds what is secret among them. A session's own variables stay, except for PATH.
if [ -n "${BASH_VERSION-}" ] && [ -r /proc/1/environ ]; then
    while IFS= read -r -d '' pair; do
        name=${pair%%=*}
        [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || continue
        [[ $name != PATH && -v $name ]] || export "${pair?}"
    done 2>/dev/null </proc/1/environ
    unset pair name
fi
