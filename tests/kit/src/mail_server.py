"""A mail server for tests: aiosmtpd with what the first argument (JSON) asks for.

Prints {"port": N} when it listens, then one JSON object for each mail, as Python's own parser of mail reads it. Ends when its input is closed.
"""

import asyncio
import json
import logging
import ssl
import sys
import warnings
from email import message_from_bytes, policy

from aiosmtpd.smtp import SMTP, AuthResult

options = json.loads(sys.argv[1])
# Clients that leave in the middle are what some tests are about.
logging.getLogger("mail").setLevel(logging.CRITICAL)
warnings.simplefilter("ignore")


class Handler:
    async def handle_RCPT(self, server, session, envelope, address, rcpt_options):
        if address in options["refused"]:
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = message_from_bytes(envelope.content, policy=policy.default)
        plain, page = mail.get_body(("plain",)), mail.get_body(("html",))
        seen = {
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "secured": session.ssl is not None or options["wrapped"],
            "user": session.auth_data,
            "headers": [[name, str(value)] for name, value in mail.items()],
            "text": plain.get_content() if plain else None,
            "html": page.get_content() if page else None,
        }
        print(json.dumps(seen), flush=True)
        return "250 taken"


def authenticate(server, session, envelope, mechanism, data):
    user, password = data.login.decode(), data.password.decode()
    right = [user, password] == options["login"]
    return AuthResult(success=right, handled=False, auth_data=user if right else None)


async def main():
    context = None
    if options["certificate"]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(options["certificate"], options["key"])
    wrapped = options["wrapped"]

    def session():
        return SMTP(
            Handler(),
            hostname="mail.test",
            tls_context=None if wrapped else context,
            require_starttls=bool(context) and not wrapped,
            authenticator=authenticate if options["login"] else None,
            auth_required=bool(options["login"]),
            auth_require_tls=bool(context) and not wrapped,
            loop=asyncio.get_running_loop(),
        )

    server = await asyncio.get_running_loop().create_server(
        session, "127.0.0.1", options["port"], ssl=context if wrapped else None
    )
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
