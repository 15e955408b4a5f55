"""A parent for a job where the platform knows no exit codes: some POSIX shell in the rendered file."""

from sidestep.runtime.errors import ExitCode, Rerun, codes


def below_a_parent(command: str, platform: str, is_one_of_several: bool = False) -> str:
    """`command` below a shell that tells `platform` 0 after permanent codes: it would try them again.

    The shell passes the first signal on as TERM, once, as the platform may signal it alone; whatever comes
    later is waited out. A shell ignores INT for what it starts in the background, hence TERM. A signal ends
    `wait`, not the job, which is waited for again; 127 says then that its code is known already.

    Of several machines, one that has only lost another one (74) has no say either: the other's own end tells
    whether another try is worth it.

    The script is in single quotes, so none may stand in it, and neither may `$$` and `${{`, which platforms
    put values in for.
    """
    no_say = [ExitCode.PEER] if is_one_of_several else []
    why = "a permanent code, or 74 for want of another machine" if no_say else "a permanent code"
    permanent = "|".join(map(str, sorted([*codes(Rerun.PERMANENT), *no_say])))
    return f"""\
/bin/sh -c '
job= told= came=
notice() {{
    came=yes
    if [ -n "$job" ] && [ -z "$told" ]; then
        told=yes
        kill -TERM "$job" 2>/dev/null
    fi
}}
trap notice TERM INT HUP USR1 USR2
"$@" &
job=$!
[ -z "$came" ] || notice
wait "$job"
code=$?
while [ -n "$came" ]; do
    came=
    wait "$job"
    again=$?
    [ "$again" -eq 127 ] || code=$again
done
case $code in
{permanent})
    echo "Side-Step has failed with $code, {why}: {platform} is told 0, lest it try again" >&2
    code=0
    ;;
esac
exit "$code"
' sh {command}
"""
