#!/bin/sh
# Stands for an image builder: pushes an image without layers to where --destination says, with the log-in of
# $DOCKER_CONFIG. What is called `broken` cannot be built.
set -eu
for argument in "$@"; do
  case "$argument" in --destination=*) image="${argument#--destination=}" ;; esac
done
registry="${image%%/*}"
rest="${image#*/}"
repository="${rest%:*}"
tag="${rest##*:}"
case "$repository" in */broken)
  echo "error building image: failed to resolve Dockerfile"
  exit 1 ;;
esac
auth="$(sed 's/.*"auth": *"\([^"]*\)".*/\1/' "$DOCKER_CONFIG/config.json")"
send() { curl --fail --silent --show-error --header "Authorization: Basic $auth" "$@" 2>&1; }
config='{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[]}}'
digest="sha256:$(printf %s "$config" | sha256sum | cut -d' ' -f1)"
place="$(send --request POST --dump-header - "http://$registry/v2/$repository/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')"
case "$place" in *\?*) glue='&' ;; *) glue='?' ;; esac
send --request PUT --header 'Content-Type: application/octet-stream' --data-binary "$config" "$place${glue}digest=$digest"
type=application/vnd.oci.image.manifest.v1+json
configured='"mediaType":"application/vnd.oci.image.config.v1+json","digest":"'$digest'","size":'${#config}
send --request PUT --header "Content-Type: $type" "http://$registry/v2/$repository/manifests/$tag" \
  --data-binary '{"schemaVersion":2,"mediaType":"'$type'","config":{'"$configured"'},"layers":[]}'
echo "pushed $image"
