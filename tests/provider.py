"""A login provider (OpenID Connect) on 127.0.0.1 that lets anybody in under one name, for the test of the login."""

import base64
import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256

CLIENT = "panorama"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return _base64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _signed(key: rsa.RSAPrivateKey, claims: Mapping[str, object]) -> str:
    """A JSON Web Token, RS256 (RFC 7519, RFC 7518)."""
    parts = [{"alg": "RS256", "typ": "JWT", "kid": "1"}, claims]
    text = ".".join(_base64(json.dumps(part).encode()) for part in parts)
    return f"{text}.{_base64(key.sign(text.encode(), padding.PKCS1v15(), SHA256()))}"


@contextmanager
def provider(claims: Mapping[str, object]) -> Iterator[str]:
    """A provider that says `claims` of whoever comes; its address."""
    key = rsa.generate_private_key(65537, 2048)
    nonces: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def answer(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_GET(self) -> None:
            path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
            if path == "/.well-known/openid-configuration":
                self.answer(
                    {
                        "issuer": address, "authorization_endpoint": f"{address}/authorize", "token_endpoint": f"{address}/token",
                        "jwks_uri": f"{address}/keys", "response_types_supported": ["code"], "subject_types_supported": ["public"],
                        "id_token_signing_alg_values_supported": ["RS256"],
                    }
                )  # fmt: skip
            elif path == "/keys":
                public = key.public_key().public_numbers()
                self.answer(
                    {
                        "keys": [
                            {
                                "kty": "RSA",
                                "kid": "1",
                                "use": "sig",
                                "alg": "RS256",
                                "n": _number(public.n),
                                "e": _number(public.e),
                            }
                        ]
                    }
                )
            elif path == "/authorize":
                code = f"code{len(nonces)}"
                nonces[code] = query.get("nonce", [""])[0]
                self.send_response(302)
                self.send_header(
                    "Location", f"{query['redirect_uri'][0]}?{urlencode({'code': code, 'state': query['state'][0]})}"
                )
                self.end_headers()
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            now = int(time.time())
            known = {"iss": address, "aud": CLIENT, "iat": now, "exp": now + 600, "nonce": nonces.pop(form["code"][0])}
            self.answer(
                {"access_token": "a", "token_type": "Bearer", "expires_in": 600, "id_token": _signed(key, known | dict(claims))}
            )

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    address = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
