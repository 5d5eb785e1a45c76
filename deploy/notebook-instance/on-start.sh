#!/usr/bin/env bash
# Lifecycle script "start notebook" of a SageMaker notebook instance. Paste it whole into a lifecycle configuration.
#
# It has five minutes, so it only starts what takes longer: install in the background, log in LOG below. Only
# /home/ec2-user/SageMaker outlives a stop, so package and environment lie there, and a start after the first takes
# seconds. Everything it needs can be set in the file SETTINGS, one NAME=VALUE a line; it is read, never executed.
set -euo pipefail

HOME_DIR=/home/ec2-user/SageMaker
SETTINGS="$HOME_DIR/spaceport.conf"

# NAME=VALUE from SETTINGS, else the default.
setting() {
    local found=""
    if [ -r "$SETTINGS" ]; then
        found=$(sed -n "s/^$1=//p" "$SETTINGS" | tail -n 1)
    fi
    printf '%s' "${found:-$2}"
}

REPOSITORY=$(setting REPOSITORY "https://github.com/example/spaceport-lab.git")
VERSION=$(setting VERSION "main")            # a tag, for an environment that stays as it is
EXTRAS=$(setting EXTRAS "aws,gpu,serve")
IDLE_MINUTES=$(setting IDLE_MINUTES "60")    # without a job, a busy kernel or anybody at work
WORKERS=$(setting WORKERS "1")
CHECKOUT="$HOME_DIR/spaceport-lab"
ENVIRONMENT="$HOME_DIR/.spaceport-env"
DATA=$(setting DATA "$HOME_DIR/data")
LOG="$HOME_DIR/spaceport-install.log"

# Brings the package and its environment to VERSION, then the kernel and the workers. Runs as ec2-user.
install() {
    set -euo pipefail
    echo "$(date --iso-8601=seconds) install of $VERSION begins"
    if [ ! -d "$CHECKOUT/.git" ]; then
        git clone --quiet "$REPOSITORY" "$CHECKOUT"
    fi
    git -C "$CHECKOUT" fetch --quiet --tags origin || echo "no network: the version that is there stays"
    # Somebody's own changes are never thrown away.
    if [ -z "$(git -C "$CHECKOUT" status --porcelain)" ]; then
        git -C "$CHECKOUT" checkout --quiet "$VERSION"
        git -C "$CHECKOUT" merge --quiet --ff-only "origin/$VERSION" 2>/dev/null || true
    fi
    local wanted have
    wanted="$(git -C "$CHECKOUT" rev-parse HEAD) $EXTRAS"
    have=$(cat "$ENVIRONMENT/.installed" 2>/dev/null || true)
    if [ "$wanted" != "$have" ]; then
        if [ ! -x "$ENVIRONMENT/bin/python" ]; then
            # Amazon Linux has an older Python; conda has the one that is wanted, and nvcc for gsplat.
            "$(conda_tool)" create --yes --quiet --prefix "$ENVIRONMENT" -c conda-forge \
                python=3.11 pip "nodejs>=22" cuda-toolkit=12.8
        fi
        "$ENVIRONMENT/bin/python" -m pip install --quiet -c "$CHECKOUT/constraints.txt" -e "$CHECKOUT[$EXTRAS]"
        printf '%s' "$wanted" > "$ENVIRONMENT/.installed"
    fi
    "$ENVIRONMENT/bin/python" -m ipykernel install --user --name spaceport-lab --display-name "Spaceport Lab"
    mkdir -p "$DATA"
    local number
    for number in $(seq 1 "$WORKERS"); do
        nohup "$ENVIRONMENT/bin/spaceport-lab" worker --data "$DATA" --name "notebook-$number" \
            >> "$HOME_DIR/spaceport-worker-$number.log" 2>&1 < /dev/null &
    done
    echo "$(date --iso-8601=seconds) ready: $(git -C "$CHECKOUT" describe --always --tags)"
}

conda_tool() {
    local place
    for place in /home/ec2-user/anaconda3/bin/conda /opt/conda/bin/conda; do
        if [ -x "$place" ]; then
            printf '%s' "$place"
            return
        fi
    done
    echo "no conda on this instance" >&2
    return 1
}

# Looks every five minutes whether the instance may stop; the decision itself is auto-stop.sh of the checkout.
watch_idle() {
    local name
    name=$(sed -n 's/.*"ResourceName": *"\([^"]*\)".*/\1/p' /opt/ml/metadata/resource-metadata.json)
    cat > /etc/cron.d/spaceport-auto-stop <<CRON
PATH=/usr/local/bin:/usr/bin:/bin
*/5 * * * * ec2-user bash "$CHECKOUT/deploy/notebook-instance/auto-stop.sh" "$name" "$IDLE_MINUTES" "$DATA" "$ENVIRONMENT" >> "$HOME_DIR/spaceport-auto-stop.log" 2>&1
CRON
    chmod 644 /etc/cron.d/spaceport-auto-stop
}

case "${1:-start}" in
start)
    watch_idle
    # A copy, because the one that runs now may be removed when this script returns.
    cp "$0" /tmp/spaceport-on-start.sh
    chmod 755 /tmp/spaceport-on-start.sh
    sudo -u ec2-user -i nohup bash /tmp/spaceport-on-start.sh install >> "$LOG" 2>&1 < /dev/null &
    chown ec2-user:ec2-user "$LOG" 2>/dev/null || true
    ;;
install) install ;;
*)
    echo "usage: $0 [start|install]" >&2
    exit 2
    ;;
esac
