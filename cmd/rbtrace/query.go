package main
import "github.com/spf13/cobra"
func newQuery(s streams) *cobra.Command { return &cobra.Command{Use:"query"} }
