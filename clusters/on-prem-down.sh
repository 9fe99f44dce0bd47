#!/usr/bin/env bash
# Stop the cluster of clusters/on-prem.yaml: Ray on the head, by `ray down`, and then on each worker, which `ray down`
# leaves running. On each machine every Ray of your account ends.
#
#     clusters/on-prem-down.sh [FILE]        FILE: clusters/on-prem.yaml if not given
#
# Run it where you ran `ray up`, with .venv active. A worker that does not answer from here is reached through the head,
# as `ray up` reached it. The exit status is 1 if Ray may still run somewhere; the last lines name the machine.
set -uo pipefail

file=${1:-clusters/on-prem.yaml}
if [ ! -f "$file" ]; then
  echo "$0: there is no file $file" >&2
  exit 2
fi

# the account, the key (or -), the head and the workers
settings=$(python3 -c '
import os, sys, yaml
try:
    config = yaml.safe_load(open(sys.argv[1]))
    auth, provider = config["auth"], config["provider"]
    print(auth["ssh_user"], os.path.expanduser(auth.get("ssh_private_key", "-")))
    print(provider["head_ip"], *provider["worker_ips"])
except (yaml.YAMLError, AttributeError, TypeError, KeyError) as error:
    sys.exit(f"{sys.argv[1]} is not like clusters/on-prem.yaml: {type(error).__name__}: {error}")
' "$file") || exit 2
{ read -r user key; read -r head workers; } <<< "$settings"

plain=(-o BatchMode=yes -o ConnectTimeout=10 -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null
       -o LogLevel=ERROR)
direct=(ssh "${plain[@]}")
from_head=(ssh "${plain[@]}")
if [ "$key" != - ]; then
  direct+=(-i "$key" -o IdentitiesOnly=yes)
  from_head+=(-i ray_bootstrap_key.pem -o IdentitiesOnly=yes)  # the copy that `ray up` left in the home folder there
fi
stop="bash --login -i -c 'source ~/.bashrc; ray stop'"  # as Ray itself runs commands

failed=0
RAY_UP_enable_autoscaler_v2=0 ray down -y "$file" || failed=1  # first: the head would start the workers' again

for machine in $head $workers; do  # `ray down` says nothing where it could not stop the head
  echo "$machine: ray stop"
  "${direct[@]}" "$user@$machine" "$stop" < /dev/null
  status=$?
  if [ $status -eq 255 ] && [ "$machine" != "$head" ]; then  # ssh's own: no way from here
    "${direct[@]}" "$user@$head" "${from_head[*]} $user@$machine $(printf %q "$stop")" < /dev/null
    status=$?
  fi
  if [ $status -ne 0 ]; then
    echo "$machine: Ray may still run there (exit status $status): run \`ray stop\` on it" >&2
    failed=1
  fi
done
exit $failed
