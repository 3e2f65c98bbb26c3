// SPDX-License-Identifier: Apache-2.0

// Package bmv2 reads the JSON that p4c's bmv2 backend emits into a typed,
// immutable program.
//
// Load is strict. Every reference is resolved, every width and bound is checked,
// and a construct that this package does not know is refused with its name and
// the place where it stands, so that an interpreter may trust what it is given:
// after Load there is no name left to look up and no index left to check.
//
// Which primitives and hash algorithms exist is not a matter of the format; the
// package that executes a Program refuses those that it does not implement.
//
// The format is described in docs/JSON_format.md of github.com/p4lang/behavioral-model.
package bmv2

import "math/big"

// The newest version of the format that Load accepts. An older minor version is
// accepted, another major version is not.
const (
	MajorVersion = 2
	MinorVersion = 24
)

// A Program is what one JSON file describes. It must not be modified; it may be
// used from any number of goroutines.
type Program struct {
	Name     string // the file that the compiler was given
	Compiler string
	Version  [2]int // major, minor

	HeaderTypes    []*HeaderType
	Headers        []*Header
	Stacks         []*Stack
	Unions         []*Union
	UnionStacks    []*UnionStack
	Errors         []ErrorCode
	ValueSets      []*ValueSet
	Parsers        []*Parser
	Deparsers      []*Deparser
	Calculations   []*Calculation
	Checksums      []*Checksum
	Counters       []*CounterArray
	Meters         []*MeterArray
	Registers      []*RegisterArray
	FieldLists     []*FieldList
	LearnLists     []*FieldList
	Actions        []*Action
	ActionProfiles []*ActionProfile
	Pipelines      []*Pipeline

	// Aliases maps a name that the target expects, such as
	// "intrinsic_metadata.mcast_grp", to the field that the program has for it.
	Aliases map[string]FieldRef
}

// Parser returns the parser of that name, or nil.
func (p *Program) Parser(name string) *Parser {
	for _, x := range p.Parsers {
		if x.Name == name {
			return x
		}
	}
	return nil
}

// Deparser returns the deparser of that name, or nil.
func (p *Program) Deparser(name string) *Deparser {
	for _, x := range p.Deparsers {
		if x.Name == name {
			return x
		}
	}
	return nil
}

// Pipeline returns the pipeline of that name, or nil.
func (p *Program) Pipeline(name string) *Pipeline {
	for _, x := range p.Pipelines {
		if x.Name == name {
			return x
		}
	}
	return nil
}

// Header returns the header instance of that name, or nil.
func (p *Program) Header(name string) *Header {
	for _, x := range p.Headers {
		if x.Name == name {
			return x
		}
	}
	return nil
}

// Field returns the field that header and field name, following aliases as a
// bmv2 target does, and whether there is one.
func (p *Program) Field(header, field string) (FieldRef, bool) {
	if h := p.Header(header); h != nil {
		if i := h.Type.field(field); i >= 0 {
			return FieldRef{Header: h, Index: i}, true
		}
	}
	ref, ok := p.Aliases[header+"."+field]
	return ref, ok
}

// FieldList returns the field list with that id, or nil.
func (p *Program) FieldList(id int) *FieldList { return listByID(p.FieldLists, id) }

// LearnList returns the learn list with that id, or nil.
func (p *Program) LearnList(id int) *FieldList { return listByID(p.LearnLists, id) }

func listByID(lists []*FieldList, id int) *FieldList {
	for _, l := range lists {
		if l.ID == id {
			return l
		}
	}
	return nil
}

// ErrorCode returns the value of the P4 error of that name, and whether the
// program declares it.
func (p *Program) ErrorCode(name string) (uint32, bool) {
	for _, e := range p.Errors {
		if e.Name == name {
			return e.Value, true
		}
	}
	return 0, false
}

// An ErrorCode is one constant of P4's error type.
type ErrorCode struct {
	Name  string
	Value uint32
}

// A HeaderType describes the fields of a header or of a metadata struct, in the
// order in which they stand on the wire.
type HeaderType struct {
	Name   string
	Fields []Field
	// FixedBits is the sum of all widths but that of a varbit field.
	FixedBits int
	// Varbit is the index of the varbit field, or -1.
	Varbit int
}

func (t *HeaderType) field(name string) int {
	for i := range t.Fields {
		if t.Fields[i].Name == name {
			return i
		}
	}
	return -1
}

// A Field is one member of a header type.
type Field struct {
	Name   string
	Width  int  // bits; for a varbit field the largest width, a multiple of 8
	Signed bool // two's complement
	Varbit bool
}

// A Header is one instance of a header type. Metadata is a header that is
// always valid and never on the wire.
type Header struct {
	Name     string
	Index    int // in Program.Headers
	Type     *HeaderType
	Metadata bool
	Union    *Union // that it is a member of; nil: none
}

// A Stack is an array of header instances of one type.
type Stack struct {
	Name    string
	Index   int // in Program.Stacks
	Type    *HeaderType
	Headers []*Header
}

// A UnionType lists the headers of which a union holds at most one.
type UnionType struct {
	Name    string
	Members []UnionMember
}

// A UnionMember is one alternative of a UnionType.
type UnionMember struct {
	Name string
	Type *HeaderType
}

func (t *UnionType) member(name string) int {
	for i := range t.Members {
		if t.Members[i].Name == name {
			return i
		}
	}
	return -1
}

// A Union is a set of header instances of which at most one is valid.
type Union struct {
	Name    string
	Index   int // in Program.Unions
	Type    *UnionType
	Headers []*Header // as Type.Members
}

// A UnionStack is an array of unions of one type.
type UnionStack struct {
	Name   string
	Index  int // in Program.UnionStacks
	Type   *UnionType
	Unions []*Union
}

// A FieldRef names one field of one header instance.
type FieldRef struct {
	Header *Header
	Index  int // in Header.Type.Fields
}

// Def returns the declaration of the field.
func (r FieldRef) Def() *Field { return &r.Header.Type.Fields[r.Index] }

// String returns "header.field".
func (r FieldRef) String() string { return r.Header.Name + "." + r.Def().Name }

// A Parser is a state machine over the bytes of a packet.
type Parser struct {
	Name   string
	Start  *ParseState // nil: nothing is parsed
	States []*ParseState
}

// A ParseState runs its operations, then chooses the first transition that
// matches the key.
type ParseState struct {
	Name  string
	Index int // in Parser.States
	Ops   []ParserOp
	// Key is what the transitions are compared with: *FieldExpr, *MemberExpr and
	// *Lookahead. Each element takes (width+7)/8 bytes.
	Key         []Expr
	KeyWidths   []int // bits of each element
	KeyBytes    int
	Transitions []Transition
	// Default is taken when no transition matches; nil accepts the packet.
	Default *ParseState
}

// A Transition compares the key with a value, or with those of a value set. A nil
// Mask compares all of it.
type Transition struct {
	Value, Mask []byte // KeyBytes long
	Set         *ValueSet
	Next        *ParseState
}

// A ValueSet is a set of values that the control plane supplies and that parser
// states compare their key with. All keys that are compared with it have the same
// widths.
type ValueSet struct {
	Name   string
	Index  int   // in Program.ValueSets
	Width  int   // bits of all elements together, without padding
	Size   int   // how many values there may be
	Widths []int // bits of each element; nil if no state uses the set
}

// A ParserOp is *Extract, *ParserSet, *Verify, *Advance or *Primitive.
type ParserOp interface{ parserOp() }

// Extract fills a header from the packet: Header, or else the next element of Stack,
// or else member Member of the next element of UnionStack. Length, in bits, is that
// of the varbit field; it is nil for a header without one.
type Extract struct {
	Header     *Header
	Stack      *Stack
	UnionStack *UnionStack
	Member     int
	Length     Expr
}

// ParserSet assigns to a field. Src may be a *Lookahead.
type ParserSet struct {
	Dst FieldRef
	Src Expr
}

// Verify ends parsing with the error Code unless Cond holds.
type Verify struct {
	Cond Expr // Bool
	Code Expr
}

// Advance skips Bits bits, which must be a multiple of 8 when it is executed.
type Advance struct{ Bits Expr }

func (*Extract) parserOp()   {}
func (*ParserSet) parserOp() {}
func (*Verify) parserOp()    {}
func (*Advance) parserOp()   {}
func (*Primitive) parserOp() {}

// A Deparser writes the valid ones of Order in front of the payload.
type Deparser struct {
	Name       string
	Order      []*Header
	Primitives []*Primitive // executed before
}

// A Calculation is a hash over fields, constants, headers and the payload.
type Calculation struct {
	Name  string
	Algo  string
	Input []CalcInput
}

// A CalcInput is one piece of what a Calculation covers; exactly one of Field,
// Header, Const and Payload says which. A field of an invalid header and an
// invalid header are skipped.
type CalcInput struct {
	Field   *FieldRef
	Header  *Header
	Const   []byte // (Width+7)/8 bytes
	Width   int    // bits of Const
	Payload bool
}

// A Checksum is verified after the parser or updated before the deparser.
type Checksum struct {
	Name   string
	Target FieldRef
	Calc   *Calculation
	Cond   Expr // Bool; nil: always
	Verify bool
	Update bool
}

// A CounterArray counts packets and bytes. A direct one belongs to the entries
// of Table.
type CounterArray struct {
	Name   string
	Index  int // in Program.Counters
	Size   int // 0 if direct
	Direct bool
	Table  string // direct only
}

// A MeterArray is an array of two-rate three-colour markers. A direct one belongs to
// the entries of Table, and marks with the field Target.
type MeterArray struct {
	Name   string
	Index  int  // in Program.Meters
	Size   int  // 0 if direct
	Bytes  bool // it counts bytes, else packets
	Direct bool
	Table  string   // direct only
	Target FieldRef // direct only
}

// A RegisterArray is an array of Size values of Width bits.
type RegisterArray struct {
	Name  string
	Index int // in Program.Registers
	Size  int
	Width int
}

// A FieldList names what a clone, a resubmitted or a recirculated packet keeps, or,
// as a learn list, what a digest holds.
type FieldList struct {
	Name     string
	ID       int
	Elements []ListElement
}

// A ListElement is one piece of a FieldList: a field, or a constant if Field is nil.
type ListElement struct {
	Field *FieldRef
	Const []byte // (Width+7)/8 bytes
	Width int    // bits
}

// An Action is a list of primitives with parameters that a table entry supplies.
type Action struct {
	Name       string
	ID         int
	Params     []Param
	Primitives []*Primitive
}

// A Param is one parameter of an action; Width is in bits.
type Param struct {
	Name  string
	Width int
}

// A Primitive is one call of an operation that the target supplies.
type Primitive struct {
	Op   string
	Args []Expr
	// Source is the P4 statement that it was compiled from, for messages; it may
	// be empty.
	Source string
}

// A Pipeline is a control: tables and conditions joined to an acyclic graph.
type Pipeline struct {
	Name         string
	Start        Node // nil: nothing to do
	Tables       []*Table
	Conditionals []*Conditional
	ActionCalls  []*ActionCall
}

// A Node is *Table, *Conditional or *ActionCall.
type Node interface{ NodeName() string }

// A MatchKind says how a key element, or a whole table, matches.
type MatchKind uint8

// The match kinds, from the weakest to the one that decides for a whole table.
const (
	Exact MatchKind = iota
	LPM
	Ternary // also optional
	Range
)

func (k MatchKind) String() string {
	return [...]string{"exact", "lpm", "ternary", "range"}[k]
}

// A Table matches a key and runs the action of the entry that matched, or else
// the default action.
type Table struct {
	Name         string
	Kind         MatchKind
	Key          []KeyElement
	Size         int
	WithCounters bool
	WithTimeout  bool
	Meter        *MeterArray // direct meter; nil: none
	// Profile is where the entries' actions are; nil if entries hold them. Only if
	// Selector is set may an entry refer to a group.
	Profile  *ActionProfile
	Selector bool
	Actions  []*TableAction
	// NextHit and NextMiss decide what follows if HitMiss is set; otherwise Next
	// of the action does.
	HitMiss           bool
	NextHit, NextMiss Node
	// DefaultNext follows a miss when there is no default action.
	DefaultNext Node
	Default     *DefaultEntry // nil: a miss does nothing
	// Entries are those of the program. ConstEntries is set if there is such a
	// list, even an empty one: then no other entry may be added.
	Entries      []Entry
	ConstEntries bool
}

// NodeName implements Node.
func (t *Table) NodeName() string { return t.Name }

// Action returns the table's action of that name, or nil.
func (t *Table) Action(name string) *TableAction {
	for _, a := range t.Actions {
		if a.Action.Name == name {
			return a
		}
	}
	return nil
}

// An ActionProfile holds actions with arguments that entries of tables share: as
// members and, if it has a selector, groups of members, of which Selector, a hash over
// each packet, chooses one.
type ActionProfile struct {
	Name     string
	Index    int // in Program.ActionProfiles
	Size     int
	Selector *Calculation // nil: no groups
}

// A TableAction is an action that a table may run, and what follows it.
type TableAction struct {
	Action *Action
	Next   Node
}

// A KeyElement is one field of a table's key. A field of an invalid header
// counts as zero.
type KeyElement struct {
	Name   string // as the control plane knows it; may be empty
	Kind   MatchKind
	Target Expr   // *FieldExpr or *ValidExpr
	Mask   []byte // static mask, (Width+7)/8 bytes; nil: all ones
	Width  int    // bits
}

// A DefaultEntry is what a table runs on a miss until the control plane changes
// it, which Const forbids.
type DefaultEntry struct {
	Call  Call
	Const bool
}

// A Call is an action with its arguments, each (Width+7)/8 bytes long.
type Call struct {
	Action *TableAction
	Args   [][]byte
}

// An Entry is a table entry that the program brings along.
type Entry struct {
	Match []Match // one per key element
	Call  Call
	// Priority decides between entries of a ternary or range table; the lowest
	// number wins.
	Priority int
}

// A Match is what one key element is compared with. All slices are (Width+7)/8
// bytes of the element.
type Match struct {
	Value     []byte // exact, lpm, ternary; low bound of a range
	Mask      []byte // ternary
	High      []byte // range
	PrefixLen int    // lpm
}

// A Conditional chooses between two nodes.
type Conditional struct {
	Name        string
	Cond        Expr // Bool
	True, False Node
	// Source is the P4 condition that it was compiled from; it may be empty.
	Source string
}

// NodeName implements Node.
func (c *Conditional) NodeName() string { return c.Name }

// An ActionCall runs an action that has no parameters.
type ActionCall struct {
	Name   string
	Action *Action
	Next   Node
}

// NodeName implements Node.
func (c *ActionCall) NodeName() string { return c.Name }

// A Type is the type of an expression's value.
type Type uint8

// The types of values. Data is an integer of unlimited precision; an assignment
// cuts it to the width of the field.
const (
	Data Type = iota
	Bool
	HeaderRef // a reference to a header instance
	StackRef  // a reference to a header stack
	UnionRef  // a reference to a header union
	UnionStackRef
	Object // a counter, register or calculation, or a string
)

func (t Type) String() string {
	return [...]string{"data", "bool", "header", "header stack", "header union", "header union stack", "object"}[t]
}

// An Expr is a value or a reference. Its concrete types are the ones below.
type Expr interface{ Type() Type }

type (
	// Const is an integer.
	Const struct{ Value *big.Int }
	// BoolConst is true or false.
	BoolConst struct{ Value bool }
	// FieldExpr is the value of a field.
	FieldExpr struct{ FieldRef }
	// ValidExpr is 1 if the header is valid, else 0 (the hidden field $valid$).
	ValidExpr struct{ Header *Header }
	// Local is a parameter of the action that is running.
	Local struct {
		Index int
		Width int // bits
	}
	// HeaderExpr refers to a header instance.
	HeaderExpr struct{ Header *Header }
	// MemberExpr is the value of a field of a header that is known only at run time.
	MemberExpr struct {
		Header Expr
		Of     *HeaderType
		Index  int // in Of.Fields
	}
	// StackExpr, UnionExpr and UnionStackExpr refer to what they name.
	StackExpr      struct{ Stack *Stack }
	UnionExpr      struct{ Union *Union }
	UnionStackExpr struct{ Stack *UnionStack }
	// StackElem is the header at Index of a stack. A header outside of it is never
	// valid, reads as zero and ignores what is written to it.
	StackElem struct {
		Stack *Stack
		Index Expr
	}
	// StackLast is the header that was extracted last into a stack.
	StackLast struct{ Stack *Stack }
	// UnionElem is the union at Index of a stack, UnionLast the last one.
	UnionElem struct {
		Stack *UnionStack
		Index Expr
	}
	UnionLast struct{ Stack *UnionStack }
	// UnionHeader is a member of a union that is known only at run time: a *UnionElem
	// or *UnionLast.
	UnionHeader struct {
		Union Expr
		Index int // in the type's Members
	}
	// Lookahead is Width bits of the packet, Offset bits after what has been
	// parsed. It stands in parsers only.
	Lookahead struct{ Offset, Width int }
	// RegisterExpr is an element of a register array.
	RegisterExpr struct {
		Array *RegisterArray
		Index Expr
	}
	// Unary is an operator with one operand.
	Unary struct {
		Op Op
		X  Expr
	}
	// Binary is an operator with two operands. For TwoCompMod, SatCast and
	// UsatCast, R is a *Const: the width in bits.
	Binary struct {
		Op   Op
		L, R Expr
	}
	// Select is L if Cond, else R.
	Select struct {
		Cond, L, R Expr
	}
	// CounterRef, RegisterRef and CalcRef name what a primitive works on.
	CounterRef  struct{ Array *CounterArray }
	MeterRef    struct{ Array *MeterArray }
	RegisterRef struct{ Array *RegisterArray }
	CalcRef     struct{ Calc *Calculation }
	// StringConst is text, for log_msg.
	StringConst struct{ Value string }
	// Vector is a list of values, for log_msg.
	Vector struct{ Elems []Expr }
)

// Def returns the declaration of the field.
func (e *MemberExpr) Def() *Field { return &e.Of.Fields[e.Index] }

// Type implements Expr.
func (*Const) Type() Type          { return Data }
func (*BoolConst) Type() Type      { return Bool }
func (*FieldExpr) Type() Type      { return Data }
func (*ValidExpr) Type() Type      { return Data }
func (*Local) Type() Type          { return Data }
func (*HeaderExpr) Type() Type     { return HeaderRef }
func (*Lookahead) Type() Type      { return Data }
func (*RegisterExpr) Type() Type   { return Data }
func (e *Unary) Type() Type        { return ops[e.Op].result }
func (e *Binary) Type() Type       { return ops[e.Op].result }
func (e *Select) Type() Type       { return e.L.Type() }
func (*MemberExpr) Type() Type     { return Data }
func (*StackExpr) Type() Type      { return StackRef }
func (*UnionExpr) Type() Type      { return UnionRef }
func (*UnionStackExpr) Type() Type { return UnionStackRef }
func (*StackElem) Type() Type      { return HeaderRef }
func (*StackLast) Type() Type      { return HeaderRef }
func (*UnionElem) Type() Type      { return UnionRef }
func (*UnionLast) Type() Type      { return UnionRef }
func (*UnionHeader) Type() Type    { return HeaderRef }
func (*MeterRef) Type() Type       { return Object }
func (*CounterRef) Type() Type     { return Object }
func (*RegisterRef) Type() Type    { return Object }
func (*CalcRef) Type() Type        { return Object }
func (*StringConst) Type() Type    { return Object }
func (*Vector) Type() Type         { return Object }

// An Op is an operator of an expression.
type Op uint8

// The operators. Arithmetic has unlimited precision.
const (
	Add Op = iota
	Sub
	Mul
	Div
	Mod
	Shl
	Shr
	BitAnd
	BitOr
	BitXor
	BitNot
	Neg // unary minus
	TwoCompMod
	SatCast
	UsatCast
	Eq // of two data, bools, headers or unions
	Ne
	Gt
	Lt
	Ge
	Le
	And
	Or
	Not
	Valid      // of a header
	ValidUnion // of a union
	DataToBool // d2b
	BoolToData // b2d
	LastIndex  // of a stack: its size, less 1
	StackSize  // of a stack: how many headers were extracted or pushed
)

type opInfo struct {
	name    string
	unary   bool
	operand Type
	result  Type
}

var ops = [...]opInfo{
	Add:        {"+", false, Data, Data},
	Sub:        {"-", false, Data, Data},
	Mul:        {"*", false, Data, Data},
	Div:        {"/", false, Data, Data},
	Mod:        {"%", false, Data, Data},
	Shl:        {"<<", false, Data, Data},
	Shr:        {">>", false, Data, Data},
	BitAnd:     {"&", false, Data, Data},
	BitOr:      {"|", false, Data, Data},
	BitXor:     {"^", false, Data, Data},
	BitNot:     {"~", true, Data, Data},
	Neg:        {"unary -", true, Data, Data},
	TwoCompMod: {"two_comp_mod", false, Data, Data},
	SatCast:    {"sat_cast", false, Data, Data},
	UsatCast:   {"usat_cast", false, Data, Data},
	Eq:         {"==", false, Data, Bool},
	Ne:         {"!=", false, Data, Bool},
	Gt:         {">", false, Data, Bool},
	Lt:         {"<", false, Data, Bool},
	Ge:         {">=", false, Data, Bool},
	Le:         {"<=", false, Data, Bool},
	And:        {"and", false, Bool, Bool},
	Or:         {"or", false, Bool, Bool},
	Not:        {"not", true, Bool, Bool},
	Valid:      {"valid", true, HeaderRef, Bool},
	ValidUnion: {"valid_union", true, UnionRef, Bool},
	DataToBool: {"d2b", true, Data, Bool},
	BoolToData: {"b2d", true, Bool, Data},
	LastIndex:  {"last_stack_index", true, StackRef, Data},
	StackSize:  {"size_stack", true, StackRef, Data},
}

// String returns the operator as the JSON spells it.
func (o Op) String() string { return ops[o].name }

var opByName = func() map[string]Op {
	m := make(map[string]Op)
	for i := range ops {
		m[ops[i].name] = Op(i)
	}
	delete(m, ops[Neg].name)
	return m
}()
