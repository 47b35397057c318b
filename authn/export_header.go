package authn

import "strings"

// exportedLoses stands at the top of every exported file. It is what an admin
// must know before giving the file to an API server.
const exportedLoses = `Made by "tipstaff authn export" from Tipstaff's configuration. Make it again when that changes.

Give it to each API server (1.34 or later) with --authentication-config=FILE; it excludes the --oidc-* flags.
The API server then verifies agents' tokens itself and never asks Tipstaff's token webhook about
them. A token that it lets in is the same user, with the same groups and extra, as through Tipstaff.

What this gives up:
- Revocation of direct access. A Revocation no longer ends a run's authentication: its token is good until it
  expires. Tipstaff's admission webhook still refuses the revoked run's changes, and its proxy its requests.
- Run bindings. Nothing makes or removes what profiles give (authn.profiles). The groups are there; bind
  them by hand, and a binding for a run stays until someone removes it.
- The token's age. The API server knows no maxTokenAge. Instead a token is refused when it was made to live
  longer than that, however young it is. A token from the future (iat) is not noticed.
- clockSkew. The API server takes none for exp, and one minute for nbf.
- algorithms. The API server takes RS, PS and ES 256, 384 and 512 from every issuer, and no EdDSA.
- Checks of form: names that stand twice in a token, headers crit and b64, a bound of 16 KiB, and bounds on
  how long and how often the issuer is asked.
- Reload. Key sets and this file are read as the API server does; Tipstaff's metrics, logs and
  "tipstaff authn test" don't cover what it decides.

Numbers: the API server reads every number in a token as a double. An expression that fails for it refuses the token.`

// exportHeader is the comment at the top of the file.
func exportHeader(notes []string) string {
	text := exportedLoses
	if len(notes) > 0 {
		text += "\n\nIn this configuration:\n- " + strings.Join(notes, "\n- ")
	}
	var b strings.Builder
	for line := range strings.Lines(text + "\n") {
		b.WriteString(strings.TrimRight("# "+line, " \n") + "\n")
	}
	return b.String()
}
