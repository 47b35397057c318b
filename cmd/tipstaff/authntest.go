package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/tipstaff-dev/tipstaff/authn"
)

// maxTokenFileBytes caps what is read of --token-file, far above the largest
// token that authn looks at.
const maxTokenFileBytes = 1 << 20

func authnTestCommand(o *options) *cobra.Command {
	var tokenFile string
	var offline bool
	cmd := &cobra.Command{
		Use:   "test --token-file FILE",
		Short: "Show which issuer and mapping take a token, and what it gives or why it is refused",
		Long: "Show which issuer and mapping of the configuration take a token, every check, the claims\n" +
			"that were used and the user that comes out, or which check failed. The token itself is\n" +
			"never shown. The exit code is 1 when the token would be refused.",
		Example: "  tipstaff authn test --config tipstaff.yaml --token-file /var/run/secrets/agent/token\n" +
			"  tipstaff authn test --config tipstaff.yaml --token-file - --offline < token",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if tokenFile == "" {
				return errors.New("no token: name its file with --token-file, - is standard input")
			}
			c, err := o.loadConfig()
			if err != nil {
				return err
			}
			if c.Authn == nil {
				return errors.New("the configuration has no section authn")
			}
			token, err := readToken(tokenFile, cmd.InOrStdin())
			if err != nil {
				return err
			}
			r, err := authn.Explain(cmd.Context(), *c.Authn, c.Access, token, authn.ExplainOptions{Offline: offline})
			if err != nil {
				return err
			}
			if o.forScripts() {
				err = o.printAs(cmd.OutOrStdout(), r)
			} else {
				err = printReport(cmd.OutOrStdout(), r)
			}
			if err != nil {
				return err
			}
			switch {
			case r.Refused != "":
				return errors.New("the token is refused")
			case !r.SignatureVerified:
				return errors.New("the signature was not verified, so the token is not accepted: leave --offline out, or give the issuer a keySetFile")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "the file that holds the token; - is standard input")
	cmd.Flags().BoolVar(&offline, "offline", false, "ask no issuer; without a keySetFile the signature is then not verified")
	return cmd
}

// readToken reads a token and the line break behind it.
func readToken(name string, stdin io.Reader) (string, error) {
	in := stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }() // read-only, nothing to lose
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxTokenFileBytes+1))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	if len(b) > maxTokenFileBytes {
		return "", fmt.Errorf("read the token: more than %d bytes", maxTokenFileBytes)
	}
	token := strings.TrimRight(string(b), "\r\n")
	if token == "" {
		return "", errors.New("read the token: nothing is there")
	}
	return token, nil
}

func printReport(w io.Writer, r authn.Report) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	var errs []error
	line := func(format string, args ...any) {
		for i, a := range args {
			if s, ok := a.(string); ok {
				args[i] = printable(s)
			}
		}
		_, err := fmt.Fprintf(tw, format+"\n", args...)
		errs = append(errs, err)
	}
	for _, c := range r.Checks {
		mark := "ok"
		if !c.OK {
			mark = "FAILED"
		}
		line("%s\t%s\t%s", mark, c.Name, c.Detail)
	}
	if len(r.Claims) > 0 {
		line("")
		line("Claims that were used:")
		for _, c := range r.Claims {
			value := string(c.Value)
			if value == "" {
				value = "(missing)"
			}
			line("  %s\t%s", c.Claim, value)
		}
	}
	line("")
	switch {
	case r.Refused != "":
		line("Refused: %s", r.Refused)
	case !r.SignatureVerified:
		line("Every check that was made holds, but the signature was NOT verified.")
	default:
		line("Accepted.")
	}
	if r.Issuer != "" {
		line("Issuer:\t%s", r.Issuer)
	}
	if r.Mapping != "" {
		line("Mapping:\t%s", r.Mapping)
	}
	if u := r.User; u != nil {
		line("Username:\t%s", u.Username)
		line("Groups:\t%s", strings.Join(u.Groups, ", "))
		keys := make([]string, 0, len(u.Extra))
		for k := range u.Extra {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			line("Extra:\t%s = %s", k, strings.Join(u.Extra[k], ", "))
		}
		for _, a := range r.Access {
			line("Access:\t%s in %s (%s)", a.ClusterRole, strings.Join(a.Namespaces, ", "), string(a.Path))
		}
		if len(r.Access) == 0 {
			line("Access:\tnone from a profile")
		}
	}
	if r.Until != nil {
		line("Until:\t%s", r.Until.Format(time.RFC3339))
	}
	for _, s := range r.NotChecked {
		line("Not checked:\t%s", s)
	}
	return errors.Join(append(errs, tw.Flush())...)
}

// printable keeps what a token holds from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
