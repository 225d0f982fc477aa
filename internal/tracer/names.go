// SPDX-License-Identifier: Apache-2.0

package tracer

import "github.com/rbtrace/rbtrace/internal/field"

// Names are the columns of calls that are given two names, of which they make the
// second one: bpf/include/rbtrace/names.h.
type Names struct {
	Call      field.Word       `json:"call" col:"CALL,w=9" doc:"the call"`
	Ret       field.Int32      `json:"ret" col:"RET,w=3,right,void=0" doc:"what the call returned: 0, or the negative error number"`
	Errno     field.Errno      `json:"errno" col:"ERR,w=8" doc:"the error's name, empty when there was none"`
	Flags     field.Flags      `json:"flags" col:"FLAGS,w=17" doc:"the flags of a call that takes some; what has no name is in hexadecimal"`
	OldSource field.PathSource `json:"old_source" col:"OLDSOURCE,w=10" doc:"where old begins: absolute (as given), cwd, dirfd, unresolved: nobody knows, or text: it is what a symbolic link shall hold"`
	NewSource field.PathSource `json:"new_source" col:"NEWSOURCE,w=10" doc:"where new begins"`
	OldFile   field.Text       `json:"old_file" col:"OLDFILE,w=24" doc:"the old path as given"`
	NewFile   field.Text       `json:"new_file" col:"NEWFILE,w=24" doc:"the new path as given"`
	Old       field.Text       `json:"old" col:"OLD,w=26" doc:"the absolute path: that given, or joined to the directory's where it is relative; neither symbolic links nor . and .. are resolved; where the directory is unknown the path as given"`
	New       field.Text       `json:"new" col:"NEW" doc:"the absolute path of the new name, likewise"`

	old, new File
}

// DecodeFiles takes the two paths from tail.
func (n *Names) DecodeFiles(tail []byte, oldFile, newFile FileRecord) error {
	tail, err := n.old.Decode(tail, oldFile)
	if err == nil {
		_, err = n.new.Decode(tail, newFile)
	}
	if err != nil {
		return err
	}
	n.OldSource, n.OldFile, n.Old = n.old.Source, n.old.Given, n.old.Path
	n.NewSource, n.NewFile, n.New = n.new.Source, n.new.Given, n.new.Path
	return nil
}
