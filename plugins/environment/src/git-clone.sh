#!/bin/sh
# Brings a git repository to a commit or branch.
#   GIT_REPO_URL    its address
#   GIT_COMMIT      commit, tag or branch
#   GIT_CLONE_DEST  folder; a checkout that is there already is left as somebody works in it
# Credentials, if any: /git-credentials/username and password (or token), or ssh-privatekey with known_hosts.
set -eu
HOME="${HOME:-/tmp}"
[ -w "$HOME" ] || HOME=/tmp
export HOME GIT_TERMINAL_PROMPT=0
git config --global --add safe.directory '*'
secret="${GIT_CREDENTIALS:-/git-credentials}"
if [ -f "$secret/password" ] || [ -f "$secret/token" ]; then
  # for this repository only
  git config --global credential.useHttpPath true
  git config --global "credential.$GIT_REPO_URL.helper" \
    "!f() { echo username=\$(cat '$secret/username' 2>/dev/null || echo git); echo password=\$(cat '$secret/password' 2>/dev/null || cat '$secret/token'); }; f"
fi
if [ -f "$secret/ssh-privatekey" ]; then
  cp "$secret/ssh-privatekey" "$HOME/.git-key"
  chmod 600 "$HOME/.git-key"
  hosts="-o StrictHostKeyChecking=accept-new"
  [ ! -f "$secret/known_hosts" ] || hosts="-o UserKnownHostsFile=$secret/known_hosts"
  export GIT_SSH_COMMAND="ssh -i $HOME/.git-key $hosts"
fi
mkdir -p "$GIT_CLONE_DEST"
cd "$GIT_CLONE_DEST"
if git rev-parse --verify --quiet HEAD >/dev/null 2>&1 && [ -d .git ]; then
  echo "$GIT_CLONE_DEST is a checkout already: only fetching"
  git fetch --quiet origin || echo "nothing was fetched" >&2
  exit 0
fi
# not `git clone`: a new volume may hold lost+found
git init --quiet
git remote remove origin 2>/dev/null || true
git remote add origin "$GIT_REPO_URL"
git fetch --quiet --tags origin '+refs/heads/*:refs/remotes/origin/*'
if git show-ref --verify --quiet "refs/remotes/origin/$GIT_COMMIT"; then
  git checkout --quiet --force -B "$GIT_COMMIT" "refs/remotes/origin/$GIT_COMMIT"
else
  # a commit that is on no branch, such as that of a pull request
  git cat-file -e "$GIT_COMMIT^{commit}" 2>/dev/null || git fetch --quiet origin "$GIT_COMMIT"
  git checkout --quiet --force "$GIT_COMMIT"
fi
echo "$GIT_REPO_URL is at $(git rev-parse HEAD)"
