#!/bin/sh
# Make the certificates and passwords of an engine of three servers (docs/cluster.md):
#
#     sh secrets.sh FOLDER 192.0.2.21 192.0.2.22 192.0.2.23
#
# FOLDER/n1, n2, n3: for /etc/nats of each server.    FOLDER/node: for /etc/s2sgw of each node.
# FOLDER/ca.key signs the certificates. Keep it elsewhere, or remove it.
set -eu
umask 077
folder=$1
shift
mkdir "$folder"
cd "$folder"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj "/CN=engine of s2sgw" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca.key -out ca.crt 2>/dev/null
password=p$(openssl rand -hex 24)
number=0
for address in "$@"; do
    number=$((number + 1))
    mkdir "n$number"
    cp ca.crt "n$number/ca.crt"
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=n$number" \
        -keyout "n$number/server.key" -out request.pem 2>/dev/null
    cat > extensions.cnf <<END
subjectAltName=IP:$address
extendedKeyUsage=serverAuth,clientAuth
keyUsage=critical,digitalSignature
authorityKeyIdentifier=keyid
END
    openssl x509 -req -in request.pem -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile extensions.cnf \
        -out "n$number/server.crt" 2>/dev/null
    cat > "n$number/nats.env" <<END
NATS_NAME=n$number
NATS_ADDRESS=$address
NATS_STORE_KEY=k$(openssl rand -hex 24)
S2SGW_PASSWORD=$password
END
done
mkdir node
cp ca.crt node/engine-ca.pem
printf 's2sgw:%s\n' "$password" > node/engine.credentials
rm -f request.pem extensions.cnf ca.srl
